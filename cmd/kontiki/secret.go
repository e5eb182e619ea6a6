package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kontiki/node"
)

// secretPoll is how often a change of the join secret is looked at.
const secretPoll = 200 * time.Millisecond

func secretCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Show and change the secret by which new nodes join the cluster",
	}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", dataDir(), "data directory of the node")
	show := &cobra.Command{
		Use:   "show",
		Short: "Print the join secret, as it belongs into the --secret-file of new nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var text node.SecretText
			if err := adminCall(cmd.Context(), dir, http.MethodPost, "/secret/show", struct{}{}, &text); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), text.Secret)
			return nil
		},
	}
	cmd.AddCommand(show, secretRotate(&dir))
	return cmd
}

func secretRotate(dir *string) *cobra.Command {
	var file string
	var wait bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Change the join secret, and the key of the gossip ring with it",
		Long: `Change the join secret, and the key of the gossip ring, which is derived from it.
Do so after a node was removed: it knows the old one.

The cluster goes on meanwhile. Its members first learn the new secret beside the old
one, then use it, then forget the old one; each step waits for all members that
answer. A member that is away takes the new secret when it is back, by itself.

Members keep the secret in their data directories from then on and need no file. New
nodes need it: write what kontiki secret show prints into the --secret-file of nodes
that you will add, or wipe. Until you do, kontiki status says which file is old.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var change node.SecretChange
			if file != "" {
				data, err := os.ReadFile(file)
				if err != nil {
					return fmt.Errorf("read the new join secret: %w", err)
				}
				change.Secret = strings.TrimSpace(string(data))
				if change.Secret == "" {
					return fmt.Errorf("%s is empty", file)
				}
			}
			var begun node.SecretState
			if err := adminCall(cmd.Context(), *dir, http.MethodPost, "/secret/rotate", change, &begun); err != nil {
				return err
			}
			if !wait {
				fmt.Fprintf(cmd.OutOrStdout(), "change %d of the join secret has begun; kontiki status tells how it goes\n", begun.Change)
				return nil
			}
			if err := awaitSecret(cmd, *dir, begun.Change); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the join secret is changed; all members that answer have the new one. New nodes need it: kontiki secret show > FILE")
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "new-file", "", "file with the new secret; one is made by default")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until the old secret is forgotten")
	return cmd
}

// awaitSecret waits for a change to be done and tells what it waits for.
func awaitSecret(cmd *cobra.Command, dir string, change uint64) error {
	tick := time.NewTicker(secretPoll)
	defer tick.Stop()
	told := ""
	for {
		var state node.SecretState
		if err := adminCall(cmd.Context(), dir, http.MethodPost, "/secret/state", struct{}{}, &state); err != nil {
			if cmd.Context().Err() != nil {
				return goesOn(cmd.Context())
			}
			return err
		}
		if state.Change > change || state.Change == change && state.Phase == "done" {
			return nil
		}
		if state.Change == change {
			text := "phase " + state.Phase
			if len(state.Behind) > 0 {
				text += ", waiting for " + strings.Join(state.Behind, ", ")
			}
			if text != told {
				fmt.Fprintln(cmd.OutOrStdout(), text)
				told = text
			}
		}
		select {
		case <-tick.C:
		case <-cmd.Context().Done():
			return goesOn(cmd.Context())
		}
	}
}

func goesOn(ctx context.Context) error {
	return fmt.Errorf("not waited for the end (%w): the change goes on by itself; kontiki status tells how", context.Cause(ctx))
}
