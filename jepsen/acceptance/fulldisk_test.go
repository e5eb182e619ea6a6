package acceptance

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"kontiki/jepsen/lab"
)

// diskSize is small enough to be filled, and has room for a node without images.
const diskSize = "size=48m"

// TestFullDisk fills the disk of the leader while 16 writers write through the other
// nodes, has the node start anew on the full disk, and makes room again.
func TestFullDisk(t *testing.T) {
	c := newLab(t, lab.Config{Name: "full"}, 3)
	for _, h := range c.Hosts() {
		c.smallDisk(t, h)
	}
	var progress bytes.Buffer
	if err := c.Up(t.Context(), &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	w := newWorkload(t, c)
	leader := c.agreedLeader(t)
	stop := w.start(t, c.others(leader))
	defer stop()
	w.progress(t, 2)
	before, err := leader.Pid()
	if err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(leader.DataDir(), "ballast")
	fill(t, ballast)
	w.progress(t, 3)
	full := func(a account) bool { return a.complains("cannot write to its disk") }
	c.awaitAccount(t, leader, "a word about the disk", full)
	if now, err := leader.Pid(); now != before {
		t.Errorf("the node ended on a full disk: process %d, before %d, %v", now, before, err)
	}

	c.kill(t, leader)
	c.start(t, leader)
	c.awaitAccount(t, leader, "the node to start on a full disk", func(a account) bool { return a.Phase == "running" })
	w.progress(t, 1)

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	c.awaitAccount(t, leader, "no more words about the disk", func(a account) bool { return !full(a) && len(a.Problems) == 0 })
	stop()
	w.readThrough(t, leader)
	w.check(t)
}

// smallDisk puts a small file system under a host's data directory, which this process
// sees, too.
func (c *cluster) smallDisk(t *testing.T, h *lab.Host) {
	t.Helper()
	if err := unix.Mount("tmpfs", h.DataDir(), "tmpfs", 0, diskSize); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(h.DataDir(), unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := h.Reboot(); err != nil { // its mounts are those of when it was made
		t.Fatal(err)
	}
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for zeros := make([]byte, 1<<16); ; {
		n, err := f.Write(zeros)
		if errors.Is(err, unix.ENOSPC) {
			if n == 0 {
				return
			}
			continue // to the last page
		}
		if err != nil && !errors.Is(err, io.ErrShortWrite) {
			t.Fatal(err)
		}
	}
}
