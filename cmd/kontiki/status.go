package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"kontiki/node"
)

func statusCommand() *cobra.Command {
	var dir, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the node on this machine knows of itself and its cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := askStatus(cmd.Context(), dir)
			if err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), s, output)
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", dataDir(), "data directory of the node")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, yaml, or empty for people")
	return cmd
}

// askStatus asks the node over its unix socket.
func askStatus(ctx context.Context, dir string) (node.Status, error) {
	var s node.Status
	socket := node.SocketPath(dir)
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node/status", nil)
	if err != nil {
		return s, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return s, fmt.Errorf("no node answers on %s (is it running? is --data-dir right?): %w", socket, err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return s, fmt.Errorf("the node's answer is not readable: %w", err)
	}
	return s, nil
}

func printStatus(out io.Writer, s node.Status, output string) error {
	switch output {
	case "json":
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	case "yaml":
		data, err := yaml.Marshal(s)
		if err != nil {
			return err
		}
		_, err = out.Write(data)
		return err
	case "":
	default:
		return fmt.Errorf("-o %s: use json or yaml", output)
	}
	fmt.Fprintf(out, "Node     %s (%s), %s\n", s.Name, s.ID, s.Phase)
	if s.Cluster == "" {
		return nil
	}
	fmt.Fprintf(out, "Cluster  %s, term %d, revision %d\n", s.Cluster, s.Term, s.Revision)
	fmt.Fprintf(out, "Losses   %s\n\n", survives(s.Members))
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "MEMBER\tNAME\tADDRESS\tROLE\tHEALTH\tVERSION")
	for _, m := range s.Members {
		role := m.Role
		if m.ID == s.Leader {
			role += ", leader"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.ID, dash(m.Name), m.Address, role, dash(m.Health), dash(m.Version))
	}
	return w.Flush()
}

// survives says what the number of voters means.
func survives(members []node.Member) string {
	var voters, alive int
	for _, m := range members {
		if m.Role == "voter" {
			voters++
			if m.Health == "alive" {
				alive++
			}
		}
	}
	quorum := voters/2 + 1
	switch spare := alive - quorum; {
	case alive < quorum:
		return fmt.Sprintf("%d of %d voters answer, %d are needed: nothing can be written until one more comes back", alive, voters, quorum)
	case spare == 0 && voters < 3:
		return fmt.Sprintf("%d voter(s): one voter's disk is everything; add nodes to survive a loss", voters)
	case spare == 0:
		return fmt.Sprintf("%d of %d voters answer: the next loss stops writes", alive, voters)
	default:
		return fmt.Sprintf("%d of %d voters answer: %d more may be lost", alive, voters, spare)
	}
}
