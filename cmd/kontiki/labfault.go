package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"kontiki/jepsen/lab"
)

func labPartition(cfg *lab.Config) *cobra.Command {
	var proto string
	cmd := &cobra.Command{
		Use:   "partition 'n1,n2|n3' | 'n1>n2'",
		Short: "Keep hosts from hearing each other, besides the faults there are",
		Long: `Keep hosts from hearing each other, until kontiki lab heal. 'n1,n2|n3' cuts n3 off
from n1 and n2, both ways; 'n1>n2' lets nothing of what n1 sends arrive at n2. Hosts
that are not named, and this machine, go on hearing everybody.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return withLab(cfg, func(l *lab.Lab) error { return l.Partition(args[0], proto) })
		},
	}
	cmd.Flags().StringVar(&proto, "proto", "", "stop udp or tcp alone; everything by default")
	return cmd
}

func labLoss(cfg *lab.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "loss NODE SHARE",
		Short: "Lose a share (like 20%) of the packets to the host and of those from it",
		Args:  cobra.ExactArgs(2),

		ValidArgsFunction: completeHosts(cfg),
		RunE: func(_ *cobra.Command, args []string) error {
			share, err := lab.ParseLoss(args[1])
			if err != nil {
				return err
			}
			return withLab(cfg, func(l *lab.Lab) error { return l.Lose(args[0], share) })
		},
	}
}

func labHeal(cfg *lab.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "heal",
		Short: "End all partitions and losses",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return withLab(cfg, (*lab.Lab).Heal) },
	}
}

func labReaddress(cfg *lab.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "readdress NODE|all",
		Short: "Give a host, or all at once, an address that it did not have before",
		Args:  cobra.ExactArgs(1),

		ValidArgsFunction: completeHosts(cfg, "all"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withLab(cfg, func(l *lab.Lab) error {
				hosts := l.Hosts()
				if args[0] != "all" {
					host, err := l.Host(args[0])
					if err != nil {
						return err
					}
					hosts = []*lab.Host{host}
				}
				if err := l.Readdress(hosts...); err != nil {
					return err
				}
				for _, h := range hosts {
					fmt.Fprintln(cmd.OutOrStdout(), h.Name, h.Addr)
				}
				return nil
			})
		},
	}
}

func labAdd(cfg *lab.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "add",
		Short: "Make one more host and start its node, which joins the cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withLab(cfg, func(l *lab.Lab) error {
				host, err := l.Add()
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), host.Name, host.Addr)
				return host.Start()
			})
		},
	}
}

// labPower are the commands that cut a host's power.
func labPower(cfg *lab.Config) []*cobra.Command {
	return []*cobra.Command{
		labNode(cfg, "off NODE", "End all that runs on the host at once, its pods too, as a loss of power does; start it again with: kontiki lab start", func(_ context.Context, h *lab.Host) error {
			return h.Reboot()
		}),
		labNode(cfg, "reboot NODE", "End all that runs on the host at once, as a loss of power does, and start its node again", func(_ context.Context, h *lab.Host) error {
			if err := h.Reboot(); err != nil {
				return err
			}
			return h.Start()
		}),
		labNode(cfg, "wipe NODE", "End all that runs on the host and empty its disk; start it as a blank one with: kontiki lab start", func(_ context.Context, h *lab.Host) error {
			return h.Wipe()
		}),
	}
}

func withLab(cfg *lab.Config, act func(*lab.Lab) error) error {
	l, err := lab.Open(*cfg)
	if err != nil {
		return err
	}
	return act(l)
}
