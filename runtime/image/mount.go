package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount puts a container's root file system at dir/rootfs: an overlay of the
// image's layers with a writable layer in dir/upper. Repeating it is harmless.
// id is the container's; the image's layers stay on disk until Unmount(id).
func (s *Store) Mount(ctx context.Context, img Image, id, dir string) (rootfs string, err error) {
	rootfs = filepath.Join(dir, "rootfs")
	if Mounted(rootfs) {
		return rootfs, nil
	}
	for _, d := range []string{"rootfs", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return "", err
		}
	}
	layers, err := s.use(ctx, img, id)
	if err != nil {
		return "", err
	}
	if err := s.overlay(layers, dir, rootfs); err != nil {
		return "", fmt.Errorf("mount root of container %s: %w", id, err)
	}
	return rootfs, nil
}

// use unpacks what is missing and records that a container stands on it; both in
// one, so that a removal by another process cannot come between.
func (s *Store) use(ctx context.Context, img Image, id string) ([]string, error) {
	for {
		if err := s.Unpack(ctx, img); err != nil {
			return nil, err
		}
		layers, err := s.recordUse(ctx, img, id)
		if !errors.Is(err, os.ErrNotExist) {
			return layers, err
		}
	}
}

// recordUse does not wait for the disk: what it writes has to outlive processes, not the machine, with
// which the mount ends that relies on it. Containers that come at once do not wait for each other.
func (s *Store) recordUse(ctx context.Context, img Image, id string) ([]string, error) {
	unlock, err := s.share(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s.touch(img.Digest)
	var layers []string
	var list strings.Builder
	for _, diff := range img.Config.RootFS.DiffIDs {
		dir := s.path("layers", diff.Hex)
		if _, err := os.Stat(dir); err != nil {
			return nil, err
		}
		layers = append(layers, dir)
		fmt.Fprintln(&list, diff.Hex)
	}
	return layers, replaceFile(s.path("tmp"), s.path("uses", filepath.Base(id)), []byte(list.String()))
}

func (s *Store) addUsedLayers(layers map[string]bool) error {
	entries, err := os.ReadDir(s.path("uses"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := os.Open(s.path("uses", e.Name()))
		if err != nil {
			return err
		}
		for sc := bufio.NewScanner(f); sc.Scan(); {
			layers[sc.Text()] = true
		}
		_ = f.Close()
	}
	return nil
}

// overlay mounts layers (lowest first). Mount options must fit into one page, so
// long lists are named by file descriptors, which are short.
func (s *Store) overlay(layers []string, dir, target string) error {
	lower := make([]string, 0, len(layers)+1)
	for i := len(layers) - 1; i >= 0; i-- {
		lower = append(lower, layers[i])
	}
	if len(lower) == 0 { // an image of nothing is allowed
		empty := filepath.Join(dir, "empty")
		if err := os.MkdirAll(empty, 0o755); err != nil {
			return err
		}
		lower = append(lower, empty)
	}
	rest := ",upperdir=" + filepath.Join(dir, "upper") + ",workdir=" + filepath.Join(dir, "work")
	opts := "lowerdir=" + strings.Join(lower, ":") + rest
	if len(opts) >= os.Getpagesize() {
		for i, l := range lower {
			fd, err := unix.Open(l, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			lower[i] = fmt.Sprintf("/proc/self/fd/%d", fd)
		}
		opts = "lowerdir=" + strings.Join(lower, ":") + rest
	}
	if err := unix.Mount("overlay", target, "overlay", 0, opts); err != nil {
		return fmt.Errorf("overlayfs on %s (its file system must be able to hold an overlay's upper layer): %w", target, err)
	}
	return nil
}

// Unmount takes a container's root away with everything written to it. It
// succeeds when there is nothing.
func (s *Store) Unmount(id, dir string) error {
	rootfs := filepath.Join(dir, "rootfs")
	for Mounted(rootfs) {
		// Lazily: a stray file held open by the node must not keep a pod from going.
		if err := unix.Unmount(rootfs, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", rootfs, err)
		}
	}
	for _, d := range []string{"rootfs", "upper", "work", "empty"} {
		if err := os.RemoveAll(filepath.Join(dir, d)); err != nil {
			return err
		}
	}
	err := os.Remove(s.path("uses", filepath.Base(id)))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Mounted says whether something is mounted on a directory.
func Mounted(dir string) bool {
	var self, parent unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &self) != nil {
		return false
	}
	if unix.Statx(unix.AT_FDCWD, filepath.Dir(dir), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &parent) != nil {
		return false
	}
	return self.Mnt_id != parent.Mnt_id
}
