package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

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
			var s node.Status
			if err := adminCall(cmd.Context(), dir, http.MethodGet, "/status", nil, &s); err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), s, output)
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", dataDir(), "data directory of the node")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, yaml, or empty for people")
	return cmd
}

func printStatus(out io.Writer, s node.Status, output string) error {
	if output != "" {
		return printEncoded(out, s, output)
	}
	fmt.Fprintf(out, "Node     %s (%s), %s\n", s.Name, s.ID, s.Phase)
	if s.Cluster != "" {
		fmt.Fprintf(out, "Cluster  %s, term %d, revision %d\n", s.Cluster, s.Term, s.Revision)
		fmt.Fprintf(out, "Losses   %s\n", s.Losses)
		if s.Commands != nil {
			fmt.Fprintf(out, "Upgrade  %s\n", s.Commands)
		}
		fmt.Fprintln(out)
		if err := printMembers(out, s); err != nil {
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
