// Command kontiki is a node of a Kontiki cluster, and every tool for one: the
// node itself, kubectl, images, and labs of virtual hosts.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

// defaultDataDir is where a node keeps everything; KONTIKI_DATA_DIR overrides it.
const defaultDataDir = "/var/lib/kontiki"

func main() {
	if filepath.Base(os.Args[0]) == "kubectl" { // a link to this program
		runKubectl(os.Args[1:])
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) { // of a command run on a lab host: it has said what was wrong
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "kontiki:", asRoot(err))
		var code exitError
		if errors.As(err, &code) {
			os.Exit(code.code)
		}
		os.Exit(1)
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "kontiki",
		Short: "A Kubernetes cluster in one binary, on Raft and gossip",
		Long: `Kontiki is a Kubernetes-API cluster in one binary. Machines that are started
with one join secret find each other and form a cluster; any node serves the API.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
	}
	root.AddCommand(nodeCommand(), statusCommand(), membersCommand(), netCommand(), storeCommand(), secretCommand(), secretsCommand(), snapshotCommand(), recoverCommand(), resetCommand(), imageCommand(), kubectlCommand(), kubeconfigCommand(), labCommand(), jepsenCommand(), versionCommand())
	tellMisuse(root)
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version) },
	}
}

// dataDir is the data directory that a command means unless told otherwise.
func dataDir() string {
	if dir := os.Getenv("KONTIKI_DATA_DIR"); dir != "" {
		return dir
	}
	return defaultDataDir
}
