package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"

	"kontiki/jepsen/lab"
)

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [--stale] [command]",
		Short: "kubectl, with the kubeconfig of this node or of a running lab",
		Long: `kubectl as everybody knows it. It uses --kubeconfig, then $KUBECONFIG, then
the admin file of this machine's node, then that of a running lab, then
~/.kube/config. A link to this program that is named kubectl does the same.

With --stale it shows what the node itself knows: that may be behind the rest of
the cluster, and is there also when no quorum is in reach. It reads only.`,
		DisableFlagParsing: true, // the flags are kubectl's
		Run:                func(_ *cobra.Command, args []string) { runKubectl(args) },
	}
}

func kubeconfigCommand() *cobra.Command {
	var server string
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print a kubeconfig with all rights, of this machine's node or of a running lab",
		Long: `Print the admin file of this machine's node, or else that of a running lab;
$KUBECONFIG, which may be of another cluster, is not looked at. Whoever has it may do
everything in the cluster. Any node's address can be put in with --server: each
serves the whole API.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := findKubeconfig()
			if path == "" {
				return fmt.Errorf("no kubeconfig is here: this machine's node has none in %s until its cluster has formed, and no lab is running", dataDir())
			}
			return printKubeconfig(cmd.OutOrStdout(), path, server)
		},
	}
	cmd.Flags().StringVar(&server, "server", "", "URL of the node to ask, as https://HOST:6443, in place of the one in the file")
	return cmd
}

func printKubeconfig(out io.Writer, path, server string) error {
	config, err := clientcmd.LoadFromFile(path)
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: it gives all rights, so only its owner may read it", err)
	}
	if err != nil {
		return err
	}
	if server != "" {
		for _, cluster := range config.Clusters {
			cluster.Server = server
		}
	}
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	_, err = out.Write(data)
	return err
}

// runKubectl hands over to kubectl, and exits as it does.
func runKubectl(args []string) {
	args, stale := withoutStale(args)
	named := slices.ContainsFunc(args, func(arg string) bool {
		return arg == "--kubeconfig" || strings.HasPrefix(arg, "--kubeconfig=")
	})
	if !named && os.Getenv("KUBECONFIG") == "" {
		if path := findKubeconfig(); path != "" {
			os.Setenv("KUBECONFIG", path)
		}
	}
	os.Args = append([]string{"kubectl"}, args...) // kubectl looks for plugins by it
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50).WithWarningPrinter(streams)
	if stale {
		flags = flags.WithWrapConfigFn(func(c *rest.Config) *rest.Config {
			c.Wrap(func(next http.RoundTripper) http.RoundTripper { return staleReads{next} })
			return c
		})
	}
	command := kubectl.NewDefaultKubectlCommandWithArgs(kubectl.KubectlOptions{
		PluginHandler: kubectl.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     os.Args,
		ConfigFlags:   flags,
		IOStreams:     streams,
	})
	if err := cli.RunNoErrOutput(command); err != nil {
		kubectlutil.CheckErr(err)
	}
}

// withoutStale takes --stale out of kubectl's arguments, as long as it stands before
// what is meant for a program in a pod.
func withoutStale(args []string) ([]string, bool) {
	end := slices.Index(args, "--")
	if end < 0 {
		end = len(args)
	}
	i := slices.Index(args[:end], "--stale")
	if i < 0 {
		return args, false
	}
	return slices.Delete(slices.Clone(args), i, i+1), true
}

// staleReads asks for what the node has (resourceVersion 0), which needs no quorum,
// and sends nothing that changes anything.
type staleReads struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (s staleReads) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet {
		return nil, errors.New("--stale only reads: what a node alone knows is no ground to change anything on; leave it out")
	}
	if objects := strings.HasPrefix(req.URL.Path, "/api/") || strings.HasPrefix(req.URL.Path, "/apis/"); !objects {
		return s.next.RoundTrip(req)
	}
	q := req.URL.Query()
	if q.Get("resourceVersion") == "" && q.Get("continue") == "" {
		req = req.Clone(req.Context())
		q.Set("resourceVersion", "0")
		req.URL.RawQuery = q.Encode()
	}
	return s.next.RoundTrip(req)
}

// findKubeconfig looks where the user did not say. Empty leaves it to kubectl.
func findKubeconfig() string {
	candidates := []string{filepath.Join(dataDir(), "admin.kubeconfig")}
	if l, err := lab.Open(lab.Config{}); err == nil {
		for _, host := range l.Hosts() {
			candidates = append(candidates, host.Kubeconfig())
		}
	}
	for _, path := range candidates {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}
