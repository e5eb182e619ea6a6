package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"

	"kontiki/jepsen/lab"
)

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [command]",
		Short: "kubectl, with the kubeconfig of this node or of a running lab",
		Long: `kubectl as everybody knows it. It uses --kubeconfig, then $KUBECONFIG, then
the admin file of this machine's node, then that of a running lab, then
~/.kube/config.`,
		DisableFlagParsing: true, // the flags are kubectl's
		Run:                func(_ *cobra.Command, args []string) { runKubectl(args) },
	}
}

// runKubectl hands over to kubectl, and exits as it does.
func runKubectl(args []string) {
	named := slices.ContainsFunc(args, func(arg string) bool {
		return arg == "--kubeconfig" || strings.HasPrefix(arg, "--kubeconfig=")
	})
	if !named && os.Getenv("KUBECONFIG") == "" {
		if path := findKubeconfig(); path != "" {
			os.Setenv("KUBECONFIG", path)
		}
	}
	os.Args = append([]string{"kubectl"}, args...) // kubectl looks for plugins by it
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
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
