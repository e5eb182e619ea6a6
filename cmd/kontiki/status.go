package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"kontiki/node"
)

func statusCommand() *cobra.Command {
	var dir, output string
	var watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the cluster as the node on this machine knows it: members, pods, ways between nodes, and what is wrong",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			look := func() (s node.Status, err error) {
				err = adminCall(cmd.Context(), dir, http.MethodGet, "/status", nil, &s)
				return s, err
			}
			if watch {
				return watchStatus(cmd.Context(), screenOf(cmd.OutOrStdout()), look, time.Second, output)
			}
			s, err := look()
			if err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), s, output)
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", dataDir(), "data directory of the node")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, yaml, or empty for people")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "keep it up to date until interrupted; into a pipe or file, print it again whenever it has changed")
	return cmd
}

func printStatus(out io.Writer, s node.Status, output string) error {
	if output != "" {
		return printEncoded(out, s, output)
	}
	s = plain(s)
	fmt.Fprintf(out, "Node     %s (%s), %s\n", s.Name, s.ID, s.Phase)
	if s.Cluster != "" {
		fmt.Fprintf(out, "Cluster  %s, term %d, revision %d\n", s.Cluster, s.Term, s.Revision)
		fmt.Fprintf(out, "Leader   %s\n", leaderWords(s))
		if s.Pods != nil {
			fmt.Fprintf(out, "Pods     %s\n", podWords(*s.Pods))
		}
		fmt.Fprintf(out, "Losses   %s\n", s.Losses)
		if s.Commands != nil {
			fmt.Fprintf(out, "Upgrade  %s\n", s.Commands)
		}
		fmt.Fprintln(out)
		if err := printCluster(out, s); err != nil {
			return err
		}
	}
	for i, problem := range s.Problems {
		if i == 0 {
			fmt.Fprintln(out, "\nProblems")
		}
		fmt.Fprintf(out, "- %s\n", problem)
	}
	return nil
}

func leaderWords(s node.Status) string {
	if s.Leader == "" {
		return "none is known"
	}
	for _, m := range s.Members {
		if m.ID == s.Leader && m.Name != "" {
			return m.Name
		}
	}
	return s.Leader
}

func podWords(p node.PodCount) string {
	words := fmt.Sprintf("%d of %d run", p.Running, p.All)
	if p.Waiting > 0 {
		words += fmt.Sprintf(", %d without a node", p.Waiting)
	}
	if p.Ended > 0 {
		words += fmt.Sprintf(", and %d that ended", p.Ended)
	}
	return words
}

// printCluster prints a line a member: what kontiki members says of its vote is left to it.
func printCluster(out io.Writer, s node.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tROLE\tHEALTH\tNODE\tPODS\tSUBNET\tROUTE\tADDRESS\tLAST CONTACT\tVERSION")
	for _, m := range s.Members {
		name, role, address, contact, pods := dash(m.Name), m.Role, "-", "-", "-"
		if m.Name == "" {
			name = m.ID
		}
		if m.ID == s.Leader {
			role += ", leader"
		}
		if m.Address.IsValid() {
			address = m.Address.String()
		}
		if m.LastContact != nil {
			contact = duration.HumanDuration(max(time.Since(*m.LastContact), 0)) + " ago"
		}
		if m.Pods != nil {
			pods = fmt.Sprintf("%d/%d", m.Pods.Running, m.Pods.All)
		}
		route, _, _ := strings.Cut(m.Route, ":") // why not is among the problems
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, role, dash(m.Health), dash(m.Ready), pods,
			dash(strings.Join(m.Subnets, " ")), dash(route), address, contact, dash(m.Version))
	}
	return w.Flush()
}

// printEncoded prints a value as JSON or YAML.
func printEncoded(out io.Writer, v any, format string) error {
	switch format {
	case "json":
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "yaml":
		data, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = out.Write(data)
		return err
	default:
		return fmt.Errorf("-o %s: use json or yaml", format)
	}
}
