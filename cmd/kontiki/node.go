package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"kontiki/apiserver"
	"kontiki/node"
)

func nodeCommand() *cobra.Command {
	cfg := node.Config{Version: version, Faults: faults()}
	var advertise, logLevel, configFile, clusterFile string
	var teardown bool
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run a node on this machine",
		Long: `Run a node on this machine. Nodes started with one join secret find each other
and form a cluster; a node started later joins the cluster that it meets. Without
--secret-file the node makes a secret and forms a cluster of one.

Each option can also be given by a variable (KONTIKI_DATA_DIR for --data-dir) or in
the file named by --config (data-dir: /srv/kontiki). The command line counts before
the variables, and these before the file.

Settings of the cluster as a whole stand in the file named by --cluster-config. They
are fixed when the cluster is founded, and must be equal on all of its founders; a
node that is given others later does not start:

  voters: 5                      # how many nodes vote at most
  clusterCIDR: 10.42.0.0/16      # addresses of pods
  nodePrefixLen: 24              # length of each node's part of it
  serviceCIDR: 10.43.0.0/16      # addresses of Services
  secondaryServiceCIDR:          # a second range of them, of IPv6; none
  clusterDNS: 10.43.0.10
  clusterDomain: cluster.local
  podNetwork: vxlan              # or host-gw`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fillFlags(cmd.Flags(), &configFile, os.LookupEnv); err != nil {
				return err
			}
			if clusterFile != "" {
				settings, err := node.ReadSettings(clusterFile)
				if err != nil {
					return err
				}
				if cmd.Flags().Changed("pod-network") {
					settings.PodNetwork = cfg.Settings.PodNetwork
				}
				cfg.Settings = settings
			}
			cfg.Given = node.Given{All: clusterFile != "", PodNetwork: cmd.Flags().Changed("pod-network")}
			if advertise != "" {
				addr, err := netip.ParseAddr(advertise)
				if err != nil {
					return fmt.Errorf("--advertise: %w", err)
				}
				cfg.Advertise = addr
			}
			var level slog.Level
			if err := level.UnmarshalText([]byte(logLevel)); err != nil {
				return fmt.Errorf("--log-level %q: use debug, info, warn or error", logLevel)
			}
			cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			if os.Geteuid() != 0 {
				return errors.New("a node makes namespaces, mounts, cgroups and network devices: run it as root")
			}
			if teardown {
				return node.Teardown(cmd.Context(), cfg)
			}
			return node.Run(cmd.Context(), cfg)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&configFile, "config", "", "YAML file with options of this node, named as here")
	flags.StringVar(&clusterFile, "cluster-config", "", "YAML file with the settings of a cluster that this node helps to found")
	flags.StringVar(&cfg.DataDir, "data-dir", dataDir(), "directory for all that the node keeps")
	flags.StringVar(&cfg.Name, "name", "", "name of the Node object; the host name by default")
	flags.StringVar(&cfg.Zone, "zone", "", "failure zone of this node (topology.kubernetes.io/zone)")
	flags.StringVar(&cfg.SecretFile, "secret-file", "", "file with the join secret that all nodes share")
	flags.StringSliceVar(&cfg.Join, "join", nil, "addresses or names of other nodes, with or without port")
	flags.BoolVar(&cfg.Replace, "replace", false, "take the place of a dead node that has this one's name, as after a disk was lost")
	flags.IntVar(&cfg.Expect, "expect", 0, "number of blank nodes that found a cluster together (default 3)")
	flags.StringVar(&advertise, "advertise", "", "address by which others reach this node; that of the default route by default")
	flags.Uint16Var(&cfg.Port, "port", 6443, "TCP port for everything between nodes and clients")
	flags.Uint16Var(&cfg.RingPort, "ring-port", 7946, "UDP port of the gossip ring")
	cfg.Settings = node.DefaultSettings()
	flags.StringVar(&cfg.Settings.PodNetwork, "pod-network", "", "how a cluster that is founded links pods of different nodes: vxlan (the default), or host-gw for nodes on one segment")
	flags.StringVar(&cfg.LoadBalancer, "load-balancer", node.LoadBalancerNodes, "who answers for Services of type LoadBalancer: nodes (each at its address) or off; the same on all nodes")
	cfg.Tolerations = &apiserver.Tolerations{}
	flags.DurationVar(&cfg.Tolerations.NotReady, "not-ready-toleration", 30*time.Second, "how long pods that do not say it stay on a node that is not ready; the same on all nodes")
	flags.DurationVar(&cfg.Tolerations.Unreachable, "unreachable-toleration", 30*time.Second, "how long pods that do not say it stay on a node that is gone; the same on all nodes")
	flags.StringVar(&cfg.LogStore, "log-store", "", "what a blank data directory keeps the Raft log in: boltdb (the default), or wal, which writes faster and is called experimental by its makers")
	flags.StringVar(&cfg.RegistriesFile, "registries", "", "YAML file with mirrors, credentials and certificates of image registries; registries.yaml in the data directory by default")
	flags.IntVar(&cfg.ImageGCHigh, "image-gc-high-threshold", 85, "per cent of the disk in use from which images that nothing uses are removed")
	flags.IntVar(&cfg.ImageGCLow, "image-gc-low-threshold", 80, "per cent of the disk in use down to which they are")
	flags.IntVar(&cfg.MaxPods, "max-pods", 110, "how many pods this node takes; its pod subnet has room for some 250")
	flags.StringSliceVar(&cfg.AllowedUnsafeSysctls, "allowed-unsafe-sysctls", nil, "sysctls, or beginnings of them ending in *, that pods of this node may set beside the safe ones")
	flags.StringVar(&cfg.CgroupRoot, "cgroup-root", "/", "cgroup below which pods are placed")
	flags.BoolVar(&teardown, "teardown", false, "stop the pods and remove the network that a stopped node left on this machine, and exit")
	votingFlags(flags, &cfg.Voting)
	auditFlags(flags, &cfg.Audit)
	flags.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}
