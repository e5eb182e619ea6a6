package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kontiki/overlay"
)

func netCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "net", Short: "The pod network, as the node on this machine sees it"}
	cmd.AddCommand(
		netReport("status", "Show this node's pods and Services, and what is not as it should be", printNet),
		netReport("leases", "Show which node has which pods' subnet, and whether packets take that way", printLeases),
	)
	return cmd
}

func netReport(use, short string, show func(io.Writer, overlay.Report) error) *cobra.Command {
	var dir, output string
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var r overlay.Report
			if err := adminCall(cmd.Context(), dir, http.MethodGet, "/net", nil, &r); err != nil {
				return err
			}
			if output != "" {
				return printEncoded(cmd.OutOrStdout(), r, output)
			}
			return show(cmd.OutOrStdout(), plain(r))
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", dataDir(), "data directory of the node")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, yaml, or empty for people")
	return cmd
}

func printNet(out io.Writer, r overlay.Report) error {
	fmt.Fprintf(out, "Node         %s, %s on the nodes' network\n", r.Node, r.Address)
	fmt.Fprintf(out, "Takes pods   %s\n", r.Ready)
	fmt.Fprintf(out, "Subnets      %s, MTU %d, other nodes by %s\n", list(r.Subnets), r.MTU, r.Backend)
	fmt.Fprintf(out, "Services     %s\n", list(r.ServiceCIDRs))
	fmt.Fprintf(out, "DNS          %d questions: %d of the cluster, %d walks completed, %d cached, %d forwarded, %d failed\n\n",
		r.DNS.Questions, r.DNS.Cluster, r.DNS.Completed, r.DNS.Cached, r.DNS.Forwarded, r.DNS.Failed)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "POD\tADDRESSES\tHOST PORTS")
	for _, p := range r.Pods {
		var ports []string
		for _, hp := range p.HostPorts {
			ports = append(ports, fmt.Sprintf("%d→%d/%s", hp.HostPort, hp.ContainerPort, strings.ToLower(hp.Protocol)))
		}
		fmt.Fprintf(w, "%s/%s\t%s\t%s\n", p.Namespace, p.Name, list(p.Addresses), dash(strings.Join(ports, " ")))
	}
	fmt.Fprintln(w, "\nSERVICE AT\tENDPOINTS\tCLIENTS STAY FOR")
	for _, s := range r.Services {
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Frontend, dash(list(s.Endpoints)), dash(s.Affinity))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	if len(r.Differences) == 0 {
		fmt.Fprintln(out, "All is as it should be.")
	}
	for _, d := range r.Differences {
		fmt.Fprintln(out, "-", d)
	}
	return nil
}

func printLeases(out io.Writer, r overlay.Report) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tSUBNETS\tADDRESS\tTUNNEL\tMTU\tGRANTED AT\tSEQUENCE\tUSED")
	for _, l := range r.Leases {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", l.NodeID, list(l.Subnets), l.Address, l.MAC, l.MTU, l.Grant, l.Sequence, l.Used)
	}
	return w.Flush()
}

func list[T fmt.Stringer](all []T) string {
	var out []string
	for _, one := range all {
		out = append(out, one.String())
	}
	return strings.Join(out, " ")
}
