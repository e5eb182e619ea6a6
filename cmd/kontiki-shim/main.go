// Command kontiki-shim is the parent of every container of a node. The node
// carries it inside and starts it; nobody needs to run it by hand.
//
// It must stay small: it is executed again for every container that starts,
// and each millisecond of its own start is added to theirs. So it imports
// neither net/http nor anything of Kubernetes.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim/server"
)

func main() {
	// Goroutines that change their thread's namespaces end with their thread. The
	// main thread cannot end, so it must never be theirs.
	runtime.LockOSThread()
	os.Exit(run())
}

func run() int {
	dir := flag.String("dir", "", "folder of the shim's socket and state")
	root := flag.String("cgroup-root", "", "cgroup below which all containers are")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if !filepath.IsAbs(*dir) || *root == "" {
		log.Error("--dir must be an absolute path and --cgroup-root be given; kontiki-shim is started by kontiki")
		return 2
	}
	logrus.SetLevel(logrus.WarnLevel)
	program, err := runSealed()
	if err != nil {
		log.Warn("not running from a sealed copy; each start of a container makes one", "error", err)
	}
	// libcontainer hands this to the init stage of each container, whose Go
	// runtime would otherwise make threads for every CPU, within the container's limits.
	os.Setenv("GOMAXPROCS", "1")
	unix.Umask(0o022)
	defaultSignals()

	s, err := server.New(server.Config{Dir: *dir, CgroupRoot: *root, Program: program, Logger: log})
	if errors.Is(err, server.ErrRunning) {
		return 0 // whoever started this one finds the other
	}
	if err != nil {
		log.Error("cannot start", "error", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	// Caught, not ignored: an ignored signal would stay ignored in the containers.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT)
	if err := s.Run(ctx); err != nil {
		log.Error("ended", "error", err)
		return 1
	}
	return 0
}
