package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"kontiki/node"
	"kontiki/raftstore"
)

func resetCommand() *cobra.Command {
	var dir string
	var formation, membership, yes bool
	cmd := &cobra.Command{
		Use:   "reset --formation|--membership",
		Short: "Make a stopped node forget its cluster, or its promises to found one",
		Long: `Make a stopped node forget its cluster, or its promises to found one.

With --membership the node forgets the cluster that it belongs to: its keys and its
replica. It keeps its id, its name and its images. Started again, it joins the cluster that
it meets, as after a recovery or a restore. What its replica alone holds is lost.

With --formation, which is for a blank node, it forgets its promises to found a cluster. A
node that has promised waits for its coordinator for as long as it takes: the
cluster may exist already and count on it. Forget the promise only if the
coordinator is gone for good, or has been reset, too.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case formation == membership:
				return errors.New("say what to reset: --formation or --membership")
			case membership:
				return resetMembership(cmd, dir, yes)
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
	cmd.Flags().BoolVar(&membership, "membership", false, "forget the cluster, its keys and the replica")
	cmd.Flags().BoolVar(&yes, "yes", false, "with --membership: do it; otherwise it is only shown what would be done")
	return cmd
}

func resetMembership(cmd *cobra.Command, dir string, yes bool) error {
	out := cmd.OutOrStdout()
	err := node.ResetMembership(dir, func(cluster string, epoch raftstore.Epoch) error {
		fmt.Fprintf(out, "this node belongs to cluster %s, epoch %s; its replica and its copy of the cluster's keys are removed\n", cluster, epoch)
		if !yes {
			return errNotConfirmed
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "the node is blank; start it again, and it joins the cluster that it meets")
	return nil
}
