package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"kontiki/node"
)

func resetCommand() *cobra.Command {
	var dir string
	var formation bool
	cmd := &cobra.Command{
		Use:   "reset --formation",
		Short: "Make a stopped, blank node forget its promises to found a cluster",
		Long: `Make a stopped, blank node forget its promises to found a cluster with others.

A node that has promised waits for its coordinator for as long as it takes: the
cluster may exist already and count on it. Forget the promise only if the
coordinator is gone for good, or has been reset, too.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !formation {
				return errors.New("say what to reset: --formation")
			}
			if err := node.ResetFormation(dir); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the node's promises are forgotten; start it again")
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", dataDir(), "data directory of the node")
	cmd.Flags().BoolVar(&formation, "formation", false, "forget what was promised to others about founding a cluster")
	return cmd
}
