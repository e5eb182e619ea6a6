package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// A node whose disk is full acknowledges nothing, does not crash, and goes on
// when there is room. The small file system is mounted in a mount namespace of a
// child process, so that it is gone with it.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	const inside = "KONTIKI_TEST_FULL_DISK"
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if os.Getenv(inside) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	eachLog(t, func(t *testing.T, log func(*raftstore.Config)) { fullDisk(t, dir, log) })
}

func fullDisk(t *testing.T, dir string, log func(*raftstore.Config)) {
	dir = filepath.Join(dir, filepath.Base(t.Name()))
	c := raftstoretest.NewCluster(t, 1, log, func(cfg *raftstore.Config) { cfg.Dir = filepath.Join(dir, "store") })
	t.Cleanup(func() { os.RemoveAll(dir) }) // room for the next
	t.Cleanup(func() { c.Stop(0) })         // before the unmount
	s := c.Stores[0]
	mustApply(t, s, put("before", "v"))
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, zeros{}); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	f.Close()

	value := string(make([]byte, 100_000))
	acknowledged := 0
	for s.Status().DiskFailing == false {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := s.Apply(ctx, put(fmt.Sprintf("k%d", acknowledged), value))
		cancel()
		if err == nil {
			acknowledged++
		}
		if acknowledged > 200 {
			t.Fatal("a full disk takes everything")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := s.Apply(ctx, put("full", value)); !errors.Is(err, raftstore.ErrNoQuorum) {
		t.Fatalf("write to a full disk: %v", err)
	}
	if _, ok := s.View().Get("before"); !ok {
		t.Fatal("local reads go on")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, put("after", "v"))
	c.Stop(0)
	v := c.Start(0).View()
	for i := range acknowledged {
		if _, ok := v.Get(fmt.Sprintf("k%d", i)); !ok {
			t.Errorf("acknowledged write %d is lost", i)
		}
	}
	if _, ok := v.Get("after"); !ok {
		t.Error("the write after the disk had room again is lost")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
