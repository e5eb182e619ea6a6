package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kontiki/node"
)

// errNotConfirmed ends a recovery that was only shown.
var errNotConfirmed = errors.New("nothing was changed: run the command again with --yes to do this")

func recoverCommand() *cobra.Command {
	var dir, output string
	var yes bool
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Make a cluster out of one survivor after a majority of its voters was lost for ever",
		Long: `Make a cluster out of one survivor after a majority of its voters was lost for ever.

While the node on this machine runs, the command asks the members that answer what they
hold, tells which of them is the furthest, and changes nothing. Stop that node, and run the
command there: it shows what its replica holds, and with --yes makes it the only voter of a
new epoch of the cluster. What the lost voters had acknowledged and this one has not got is
gone. Revisions go on beyond any that can have been shown, so that every client that watches
is told so (410 Gone) and lists anew.

Members of the old epoch are refused from then on, and refuse this node. Those that live
rejoin once they were made blank: kontiki reset --membership. As long as the two do not meet,
a majority that is not lost goes on as it was: be sure that it is, or stop it first.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Stat(node.SocketPath(dir)); err == nil {
				var s node.Survey
				err := adminCall(cmd.Context(), dir, http.MethodPost, "/recover/survey", struct{}{}, &s)
				if err == nil && output != "" {
					return printEncoded(cmd.OutOrStdout(), s, output)
				}
				if err == nil {
					return printSurvey(cmd.OutOrStdout(), s)
				}
				if !errors.Is(err, errNoAnswer) {
					return err
				}
			}
			return recoverHere(cmd.OutOrStdout(), dir, output, yes)
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", dataDir(), "data directory of the node")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it; otherwise it is only shown what would be done")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, yaml, or empty for people")
	return cmd
}

// recoverHere works on the data directory of a stopped node.
func recoverHere(out io.Writer, dir, output string, yes bool) error {
	plan, err := node.Recover(dir, quietLogger(), time.Now, func(p node.RecoveryPlan) error {
		if output != "" {
			if err := printEncoded(out, p, output); err != nil {
				return err
			}
		} else if err := printPlan(out, p); err != nil {
			return err
		}
		if !yes {
			return errNotConfirmed
		}
		return nil
	})
	if err != nil {
		return err
	}
	if output == "" {
		fmt.Fprintf(out, "\ndone: this node is epoch %s of cluster %s. Start it; it leads at once, and others may join\n", plan.Next, plan.Cluster)
	}
	return nil
}

func printPlan(out io.Writer, p node.RecoveryPlan) error {
	fmt.Fprintf(out, "Cluster %s, epoch %s. This node's replica holds\n\n", p.Cluster, p.Epoch)
	if err := printSurvivors(out, []node.Survivor{p.Held}); err != nil {
		return err
	}
	if p.Held.LogIndex > p.Committed {
		fmt.Fprintf(out, "\nof which it knows that all up to log entry %d was committed; the rest is kept, since it may have been.\n", p.Committed)
	}
	fmt.Fprintf(out, `
Compare that with the other survivors (kontiki recover on each): the highest LOG TERM wins,
and of these the highest LOG INDEX. Use the furthest; what only others hold is lost.

This makes the node the only voter of epoch %s, which begins at revision %d. Not in it:
  %s
They are refused from then on. Those that are lost: forget them. Those that live: stop them,
run kontiki reset --membership, start them again; they join anew, with their names. A machine
that was emptied takes its old name with kontiki node --replace.

If a majority of the old epoch lives and is only out of reach, it goes on to acknowledge
writes, which this epoch will never have. Be sure that it is lost, or stop it first.
`, p.Next, p.NextRevision, strings.Join(append(p.Others(), ""), "\n  "))
	return nil
}

func printSurvey(out io.Writer, s node.Survey) error {
	s = plain(s)
	epoch := s.Epoch
	if epoch == "" {
		epoch = "1"
	}
	fmt.Fprintf(out, "Cluster %s, epoch %s, %d voters. The members that answer hold, the furthest first\n\n", s.Cluster, epoch, s.Voters)
	if err := printSurvivors(out, s.Survivors); err != nil {
		return err
	}
	if len(s.Away) > 0 {
		fmt.Fprintf(out, "\nDo not answer: %s\n", strings.Join(s.Away, ", "))
	}
	if s.Leader != "" {
		fmt.Fprintf(out, "\nNode %s leads: a majority lives, and there is nothing to recover.\n", s.Leader)
		return nil
	}
	if len(s.Survivors) > 0 {
		best := s.Survivors[0]
		fmt.Fprintf(out, "\nNo leader is known. If what does not answer is lost for ever: stop kontiki on %s, the furthest, and run\nkontiki recover there. Nothing was changed.\n", dash(best.Name)+" ("+best.ID+")")
	}
	return nil
}

func printSurvivors(out io.Writer, survivors []node.Survivor) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "MEMBER\tNAME\tLOG TERM\tLOG INDEX\tLAST ENTRY\tREVISION\tREMARK")
	for _, s := range survivors {
		made, remark := "-", ""
		if s.LogTime != nil {
			made = s.LogTime.Format(time.RFC3339)
		}
		if s.Damaged {
			remark = "damaged, do not use it"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%d\t%s\n", s.ID, dash(s.Name), s.LogTerm, s.LogIndex, made, s.Revision, remark)
	}
	return w.Flush()
}
