package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"kontiki/node"
)

// rotateKeyPoll is how often a change of the data key is looked at.
const rotateKeyPoll = time.Second

func secretsCommand() *cobra.Command {
	var dir string
	var wait bool
	cmd := &cobra.Command{
		Use:   "secrets",
		Short: "Change the key that Secrets are encrypted with in the store",
	}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", dataDir(), "data directory of the node")
	rotate := &cobra.Command{
		Use:   "rotate-key",
		Short: "Encrypt all Secrets anew with a new key",
		Long: `Make a new data key, encrypt every Secret anew with it, and drop the old keys once
nothing is encrypted with them. Within a minute or two all Secrets are; the old keys stay
some eight minutes longer, since watches may begin at revisions of that age. The cluster
goes on meanwhile, and the change does without this command, too. A leader that is lost in between is followed by one that goes on.

Snapshots that were saved before hold Secrets under the old keys, and the keys as well,
sealed with the key-encryption key (pki/kek in the data directory of each node).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var made node.DataKeys
			if err := adminCall(cmd.Context(), dir, http.MethodPost, "/secrets/rotate-key", struct{}{}, &made); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "new data key", made.Current)
			if !wait {
				fmt.Fprintln(cmd.OutOrStdout(), "kontiki status -o json tells which old keys are left")
				return nil
			}
			return awaitDataKey(cmd.Context(), dir, made.Current, func() {
				fmt.Fprintln(cmd.OutOrStdout(), "all Secrets are encrypted with it; the old keys are dropped")
			})
		},
	}
	rotate.Flags().BoolVar(&wait, "wait", true, "wait until the old keys are dropped")
	cmd.AddCommand(rotate)
	return cmd
}

// changedTo tells whether the change to the data key id is over.
func changedTo(id string, keys *node.DataKeys) (bool, error) {
	switch {
	case keys == nil:
		return false, nil
	case keys.Current == id:
		return len(keys.Old) == 0, nil
	case slices.Contains(keys.Old, id):
		return false, nil
	}
	return false, fmt.Errorf("data key %s is not among the cluster's keys any more: another change came after this one", id)
}

// awaitDataKey calls done once no key is left that is older than id.
func awaitDataKey(ctx context.Context, dir, id string, done func()) error {
	tick := time.NewTicker(rotateKeyPoll)
	defer tick.Stop()
	for {
		var status node.Status
		if err := adminCall(ctx, dir, http.MethodGet, "/status", nil, &status); err != nil {
			if ctx.Err() != nil {
				return goesOn(ctx)
			}
			return err
		}
		if is, err := changedTo(id, status.DataKeys); err != nil {
			return err
		} else if is {
			done()
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return goesOn(ctx)
		}
	}
}
