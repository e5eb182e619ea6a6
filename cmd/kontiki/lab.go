package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kontiki/jepsen/lab"
)

// labUpTimeout bounds the wait for a lab's cluster. It forms in seconds; a
// machine that is busy with something else gets a chance, too.
const labUpTimeout = 3 * time.Minute

func labCommand() *cobra.Command {
	var cfg lab.Config
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Virtual hosts on this machine, each running a node",
	}
	cmd.PersistentFlags().StringVar(&cfg.Name, "name", "default", "name of the lab; several labs can stand side by side")
	cmd.PersistentFlags().StringVar(&cfg.Root, "root", lab.DefaultRoot, "directory for what the hosts write")
	cmd.AddCommand(
		labUp(&cfg), labDown(&cfg), labStatus(&cfg), labExec(&cfg), labLogs(&cfg), labKubeconfig(&cfg), labKill(&cfg),
		labNode(&cfg, "pause NODE", "Stop the host's node in its tracks (SIGSTOP); its containers run on", func(ctx context.Context, h *lab.Host) error {
			return h.Signal(ctx, syscall.SIGSTOP)
		}),
		labNode(&cfg, "resume NODE", "Let a paused node go on (SIGCONT)", func(ctx context.Context, h *lab.Host) error {
			return h.Signal(ctx, syscall.SIGCONT)
		}),
		labStart(&cfg),
		labPartition(&cfg), labLoss(&cfg), labHeal(&cfg), labReaddress(&cfg), labAdd(&cfg),
	)
	cmd.AddCommand(labPower(&cfg)...)
	return cmd
}

func labUp(cfg *lab.Config) *cobra.Command {
	var nodes int
	cmd := &cobra.Command{
		Use:   "up [-- OPTION...]",
		Short: "Make the hosts unless they are there, start their nodes, with the options of kontiki node that are given, and wait for the cluster",
		Args:  afterDash(0),
		RunE: func(cmd *cobra.Command, options []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			cfg.Binary = self
			l, err := lab.Create(*cfg, nodes)
			if errors.Is(err, lab.ErrExists) {
				l, err = lab.Open(*cfg) // as it was made, whatever the flags say now
			}
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), labUpTimeout)
			defer cancel()
			if err := l.Up(ctx, cmd.OutOrStdout(), options...); err != nil {
				return fmt.Errorf("%w\nthe lab is left as it is to look at; remove it with: kontiki lab down --name %s", err, cfg.Name)
			}
			suffix := ""
			if cfg.Name != "default" {
				suffix = " --name " + cfg.Name
			}
			fmt.Fprintf(cmd.OutOrStdout(), `
Try:
  export KUBECONFIG=$(%[1]s lab kubeconfig%[2]s)
  %[1]s kubectl get nodes
  %[1]s lab status%[2]s
  %[1]s lab kill n1%[2]s
  %[1]s lab down%[2]s
`, os.Args[0], suffix)
			return nil
		},
	}
	cmd.Flags().IntVar(&nodes, "nodes", 3, "number of hosts")
	cmd.Flags().BoolVar(&cfg.Beacon, "beacon", false, "give the nodes no --join: they find each other by their beacon alone")
	return cmd
}

func labDown(cfg *lab.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End every process of the lab and remove all that it made",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return lab.Down(*cfg) },
	}
}

func labStatus(cfg *lab.Config) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the hosts and what their nodes say",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(*cfg)
			if err != nil {
				return err
			}
			rows := l.Status(cmd.Context())
			if output != "" {
				return printEncoded(cmd.OutOrStdout(), rows, output)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "HOST\tADDRESS\tNODE\tROLE\tCLUSTER\tLEADER\tREVISION\tFAULTS")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", r.Host, r.Address, r.State, dash(r.Role), dash(r.Cluster), dash(r.Leader), r.Revision, dash(strings.Join(r.Faults, ", ")))
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, yaml, or empty for a table")
	return cmd
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func labExec(cfg *lab.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "exec NODE -- COMMAND [ARG...]",
		Short: "Run a command on a host; kontiki is on its PATH",
		Args:  cobra.MinimumNArgs(2),

		ValidArgsFunction: completeHosts(cfg),
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := findHost(cfg, args[0])
			if err != nil {
				return err
			}
			err = host.Exec(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr(), args[1], args[2:]...)
			if errors.Is(err, context.Canceled) { // interrupted, and so was the command
				return nil
			}
			return err
		},
	}
}

func labLogs(cfg *lab.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "logs NODE",
		Short: "Print what a host's node wrote",
		Args:  cobra.ExactArgs(1),

		ValidArgsFunction: completeHosts(cfg),
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := findHost(cfg, args[0])
			if err != nil {
				return err
			}
			f, err := os.Open(host.LogPath())
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(cmd.OutOrStdout(), f)
			return err
		},
	}
}

func labKubeconfig(cfg *lab.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig [NODE]",
		Short: "Print the path of an admin kubeconfig, of the first host that has one or of NODE",
		Args:  cobra.MaximumNArgs(1),

		ValidArgsFunction: completeHosts(cfg),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*cfg)
			if err != nil {
				return err
			}
			hosts, whose := l.Hosts(), "no host has"
			if len(args) == 1 {
				host, err := l.Host(args[0])
				if err != nil {
					return err
				}
				hosts, whose = []*lab.Host{host}, args[0]+" has not got"
			}
			for _, h := range hosts {
				if _, err := os.Stat(h.Kubeconfig()); err == nil {
					fmt.Fprintln(cmd.OutOrStdout(), h.Kubeconfig())
					return nil
				}
			}
			return fmt.Errorf("%s an admin kubeconfig yet: it comes once the cluster has formed; see kontiki lab status", whose)
		},
	}
}

func labKill(cfg *lab.Config) *cobra.Command {
	var signal string
	cmd := labNode(cfg, "kill NODE", "Send the host's node a signal, SIGKILL unless told otherwise", func(ctx context.Context, h *lab.Host) error {
		number := unix.SignalNum(signal)
		if number == 0 {
			return fmt.Errorf("%q is no signal; name one like SIGKILL, SIGTERM or SIGSTOP", signal)
		}
		return h.Signal(ctx, number)
	})
	cmd.Flags().StringVar(&signal, "signal", "SIGKILL", "signal to send")
	return cmd
}

func labStart(cfg *lab.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "start NODE [-- OPTION...]",
		Short: "Start the host's node again, with the options of kontiki node that are given",
		Args:  afterDash(1),

		ValidArgsFunction: completeHosts(cfg),
		RunE: func(_ *cobra.Command, args []string) error {
			host, err := findHost(cfg, args[0])
			if err != nil {
				return err
			}
			return host.Start(args[1:]...)
		},
	}
}

// afterDash wants n arguments; what follows a "--" are options of a node.
func afterDash(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if dash := cmd.ArgsLenAtDash(); dash >= 0 {
			args = args[:dash]
		}
		return cobra.ExactArgs(n)(cmd, args)
	}
}

// labNode is a command that does something to one host.
func labNode(cfg *lab.Config, use, short string, act func(context.Context, *lab.Host) error) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(1),

		ValidArgsFunction: completeHosts(cfg),
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := findHost(cfg, args[0])
			if err != nil {
				return err
			}
			return act(cmd.Context(), host)
		},
	}
}

func findHost(cfg *lab.Config, name string) (*lab.Host, error) {
	l, err := lab.Open(*cfg)
	if err != nil {
		return nil, err
	}
	return l.Host(name)
}
