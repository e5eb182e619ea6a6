package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kontiki/overlay"
	"kontiki/runtime/mount"
	"kontiki/runtime/shim"
)

// podGrace is how long pods get to end by themselves when their node goes for good.
const podGrace = 10 * time.Second

// Teardown ends what a stopped node left running on the machine, pods and network.
// The data directory keeps who the node is, its replica and its images. It may be repeated.
func Teardown(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	unlock, err := lockDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := cfg.resolve(); err != nil {
		return err
	}
	return teardown(ctx, cfg)
}

func teardown(ctx context.Context, cfg Config) error {
	shimDir := filepath.Join(cfg.DataDir, "run", "shim")
	if _, err := os.Stat(shimDir); err == nil {
		if err := stopPods(ctx, cfg, shimDir); err != nil {
			return fmt.Errorf("stop the pods: %w", err)
		}
	}
	var errs []error
	for _, sub := range []string{"pods", "images", "run"} {
		errs = append(errs, mount.DetachBelow(filepath.Join(cfg.DataDir, sub)))
	}
	if err := errors.Join(errs...); err != nil {
		return err // never remove files through a mount that is still there
	}
	return errors.Join(
		overlay.Teardown(filepath.Join(cfg.DataDir, "overlay"), netns.None(), cfg.Logger),
		os.RemoveAll(filepath.Join(cfg.DataDir, "pods")),
		os.RemoveAll(shimDir),
		removeCgroups(cfg.CgroupRoot),
	)
}

// stopPods asks every container to end, waits a while, and removes all.
func stopPods(ctx context.Context, cfg Config, dir string) error {
	client, err := shim.Start(ctx, shim.Config{Dir: dir, CgroupRoot: cfg.CgroupRoot, Logger: cfg.Logger.With("room", "runtime")})
	if err != nil {
		return err
	}
	defer client.Close()
	containers, err := client.List(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
		if err := client.Signal(ctx, c.ID, unix.SIGTERM); err != nil && !errors.Is(err, shim.ErrNotRunning) && !errors.Is(err, shim.ErrNotFound) {
			cfg.Logger.Warn("a container cannot be asked to end", "container", c.ID, "err", err)
		}
	}
	if err := awaitExits(ctx, client); err != nil {
		return err
	}
	sandboxes, err := client.ListSandboxes(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range sandboxes {
		errs = append(errs, client.RemoveSandbox(ctx, s.ID))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return client.Shutdown(ctx)
}

// awaitExits returns when no container runs, or the grace is over.
func awaitExits(ctx context.Context, client *shim.Client) error {
	deadline := time.After(podGrace)
	for {
		containers, err := client.List(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(containers, func(c shim.Container) bool { return c.PID != 0 }) {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// removeCgroups removes the empty groups that pods were placed in, in every
// hierarchy. Groups that still hold something stay.
func removeCgroups(root string) error {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		mounts, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, mount := range mounts {
			for _, group := range []string{"kubepods/burstable", "kubepods/besteffort", "kubepods", "shim"} {
				err := unix.Rmdir(filepath.Join(mount, root, group))
				if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOTDIR) {
					return err
				}
			}
		}
	}
	return nil
}
