package agent

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// diskKept is how long a count of a folder's contents is believed: counting reads every entry.
const diskKept = time.Minute

// disks counts what lies in folders, when it is asked, and not again for a while.
type disks struct {
	mu     sync.Mutex // protects counts
	counts map[string]diskCount
}

type diskCount struct {
	at            time.Time
	bytes, inodes uint64
}

// count returns the space and entries that a folder takes, itself included. A
// folder that is not there takes none.
func (d *disks) count(ctx context.Context, dir string, now time.Time) diskCount {
	d.mu.Lock()
	c, ok := d.counts[dir]
	for other, old := range d.counts { // of pods that are gone
		if now.Sub(old.at) > 2*diskKept {
			delete(d.counts, other)
		}
	}
	d.mu.Unlock()
	if ok && now.Sub(c.at) < diskKept {
		return c
	}
	c = countTree(ctx, dir)
	c.at = now
	if ctx.Err() != nil {
		return c // half of it: not to be remembered
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counts == nil {
		d.counts = map[string]diskCount{}
	}
	d.counts[dir] = c
	return c
}

// countTree walks a tree without leaving its file system; a file with several
// names counts once. What goes while it walks is left out.
func countTree(ctx context.Context, dir string) (c diskCount) {
	var root unix.Stat_t
	if unix.Lstat(dir, &root) != nil {
		return c
	}
	seen := map[uint64]bool{}
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil
		}
		fi, err := e.Info()
		if err != nil {
			return nil
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok || st.Dev != root.Dev {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !e.IsDir() && st.Nlink > 1 {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		c.bytes += uint64(st.Blocks) * 512
		c.inodes++
		return nil
	})
	return c
}

// fileSystem says how full the file system below a path is; used counts what
// belongs to the one thing asked for, nil: everything.
func fileSystem(path string, now time.Time, used *diskCount) *statsapi.FsStats {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return nil
	}
	size := uint64(st.Bsize)
	capacity, available, inodes, inodesFree := st.Blocks*size, st.Bavail*size, st.Files, st.Ffree
	bytes, inodesUsed := (st.Blocks-st.Bfree)*size, inodes-inodesFree
	if used != nil {
		bytes, inodesUsed = used.bytes, used.inodes
	}
	return &statsapi.FsStats{Time: metav1.NewTime(now), CapacityBytes: &capacity, AvailableBytes: &available, UsedBytes: &bytes, Inodes: &inodes, InodesFree: &inodesFree, InodesUsed: &inodesUsed}
}

// logCount sums the sizes of a container's logs.
func logCount(dir string) (c diskCount) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return c
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() {
			if st, ok := fi.Sys().(*syscall.Stat_t); ok {
				c.bytes += uint64(st.Blocks) * 512
				c.inodes++
			}
		}
	}
	return c
}
