package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killPatience bounds the wait for killed processes to be gone.
const killPatience = 20 * time.Second

// unified is the mount point of cgroup v2: the only hierarchy on a v2 machine,
// one beside the v1 controllers on a hybrid one. Every process of a host starts
// in the host's subtree there and its children with it, so that the subtree
// knows them all.
func unified() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("no cgroup2 is mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified: mount it there (mount -t cgroup2 none DIR)")
}

// hierarchies are all cgroup mounts in which the container runtime may have made
// directories.
func hierarchies() ([]string, error) {
	root, err := unified()
	if err != nil {
		return nil, err
	}
	all := []string{root}
	if root == "/sys/fs/cgroup" {
		return all, nil
	}
	entries, err := os.ReadDir("/sys/fs/cgroup")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if dir := filepath.Join("/sys/fs/cgroup", e.Name()); e.IsDir() && dir != root {
			all = append(all, dir)
		}
	}
	return all, nil
}

// makeCgroup makes the host's subtree and opens its directory for starting
// processes in it.
func (h *Host) makeCgroup() error {
	root, err := unified()
	if err != nil {
		return err
	}
	return os.MkdirAll(filepath.Join(root, h.cgroup()), 0o755)
}

func (h *Host) openCgroup() (*os.File, error) {
	root, err := unified()
	if err != nil {
		return nil, err
	}
	leaf := filepath.Join(root, h.cgroup(), "system")
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		return nil, err
	}
	return os.Open(leaf)
}

// killCgroup kills every process below path and waits until they are gone.
func killCgroup(path string) error {
	root, err := unified()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, path)
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	for {
		// Again and again: a process may fork while it is being killed on
		// kernels whose cgroup.kill does not cover it (before 5.14 there is none).
		err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("kill what runs in %s: %w", dir, err)
		}
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !strings.Contains(string(events), "populated 1") {
			return nil
		}
		if err := pause(ctx, "the processes in "+dir+" to end"); err != nil {
			return err
		}
	}
}

// removeCgroup removes the directories below path in every hierarchy.
func removeCgroup(path string) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	for _, root := range roots {
		for {
			err := removeTree(filepath.Join(root, path))
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) {
				return err
			}
			// The kernel lets go of a dead process a moment after it is gone.
			if perr := pause(ctx, err.Error()); perr != nil {
				return perr
			}
		}
	}
	return nil
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// pause waits a little between two looks at something, or fails when ctx ends.
func pause(ctx context.Context, waitedFor string) error {
	select {
	case <-time.After(20 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waited for %s: %w", waitedFor, ctx.Err())
	}
}
