package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"kontiki/node"
)

func membersCommand() *cobra.Command {
	var dir, output string
	cmd := &cobra.Command{
		Use:   "members",
		Short: "Show and change who belongs to the cluster",
		Args:  cobra.NoArgs,
	}
	ls := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the members of the cluster",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s node.Status
			if err := adminCall(cmd.Context(), dir, http.MethodGet, "/status", nil, &s); err != nil {
				return err
			}
			if output != "" {
				return printEncoded(cmd.OutOrStdout(), s.Members, output)
			}
			return printMembers(cmd.OutOrStdout(), s)
		},
	}
	cmd.RunE = ls.RunE
	cmd.PersistentFlags().StringVar(&dir, "data-dir", dataDir(), "data directory of the node")
	cmd.PersistentFlags().StringVarP(&output, "output", "o", "", "json, yaml, or empty for a table")
	cmd.AddCommand(ls,
		memberChange(&dir, "promote", "Give a member a vote, and let it keep it"),
		memberChange(&dir, "demote", "Take a member's vote for good; it stays a replica"),
		memberChange(&dir, "auto", "Let the leader decide again whether a member votes, after promote or demote"),
		memberChange(&dir, "remove", "Remove a member for good: it is refused from then on, and does not come back by itself"),
	)
	return cmd
}

func memberChange(dir *string, action, short string) *cobra.Command {
	return &cobra.Command{
		Use:   action + " NAME|ID",
		Short: short,
		Args:  cobra.ExactArgs(1),

		ValidArgsFunction: completeMembers(dir),
		RunE: func(cmd *cobra.Command, args []string) error {
			var done node.Message
			if err := adminCall(cmd.Context(), *dir, http.MethodPost, "/members/"+action, node.MemberChange{Node: args[0]}, &done); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), done.Message)
			return nil
		},
	}
}

func printMembers(out io.Writer, s node.Status) error {
	s = plain(s)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "MEMBER\tNAME\tADDRESS\tROLE\tHEALTH\tLAST CONTACT\tREVISION\tVERSION\tWHY")
	for _, m := range s.Members {
		role := m.Role
		if m.ID == s.Leader {
			role += ", leader"
		}
		address := "-"
		if m.Address.IsValid() {
			address = m.Address.String()
		}
		contact, revision := "-", "-"
		if m.LastContact != nil {
			contact = duration.HumanDuration(max(time.Since(*m.LastContact), 0)) + " ago"
		}
		if m.AppliedRevision > 0 {
			revision = strconv.FormatUint(m.AppliedRevision, 10)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.ID, dash(m.Name), address, role, dash(m.Health), contact, revision, dash(m.Version), dash(m.Why))
	}
	return w.Flush()
}
