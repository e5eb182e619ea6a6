package main

import (
	"cmp"
	"net/http"

	"github.com/spf13/cobra"

	"kontiki/jepsen/lab"
	"kontiki/node"
)

// What the shell offers after a command, besides commands and flags (kontiki completion
// bash|zsh|fish|powershell): names that are there now. Where they cannot be told, nothing
// is offered.

// completeMembers offers the members of the cluster.
func completeMembers(dir *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var s node.Status
		if len(args) > 0 || adminCall(cmd.Context(), *dir, http.MethodGet, "/status", nil, &s) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, m := range s.Members {
			names = append(names, cmp.Or(m.Name, m.ID))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeHosts offers the hosts of a lab, and further words.
func completeHosts(cfg *lab.Config, more ...string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		l, err := lab.Open(*cfg)
		if len(args) > 0 || err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, h := range l.Hosts() {
			names = append(names, h.Name)
		}
		return append(names, more...), cobra.ShellCompDirectiveNoFileComp
	}
}
