package agent

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/client-go/tools/record"

	"kontiki/runtime/image"
)

// TestImagesGoWhenTheirDiskIsFull fills a small file system of its own with real images, of which a
// container stands on the oldest: from the threshold on the longest unused go, until it is low enough.
func TestImagesGoWhenTheirDiskIsFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=100m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	store, err := image.Open(filepath.Join(dir, "images"), nil)
	if err != nil {
		t.Fatal(err)
	}
	events := record.NewFakeRecorder(10)
	a := &Agent{cfg: Config{DataDir: dir, NodeName: "n1", ImageGCHigh: 85, ImageGCLow: 60}, events: events}
	g := a.imageCollector(store)
	used := func() int {
		t.Helper()
		capacity, available, err := g.disk()
		if err != nil {
			t.Fatal(err)
		}
		return int(100 - available*100/capacity)
	}
	load := func(name string, age time.Duration) image.Image {
		t.Helper()
		root := t.TempDir()
		body := make([]byte, 9<<20) // nothing packs it: twice that on disk, as a blob and unpacked
		if _, err := rand.Read(body); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "body"), body, 0o644); err != nil {
			t.Fatal(err)
		}
		img, err := store.Import(t.Context(), root, name, v1.Config{})
		if err == nil {
			err = store.Unpack(t.Context(), img)
		}
		if err != nil {
			t.Fatal(err)
		}
		since := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(dir, "images", "blobs", "sha256", img.Digest.Hex), since, since); err != nil {
			t.Fatal(err)
		}
		return img
	}
	names := func() (list []string) {
		t.Helper()
		all, err := store.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range all {
			list = append(list, strings.TrimPrefix(img.Ref, "docker.io/library/"))
		}
		return list
	}
	collect := func(want ...string) {
		t.Helper()
		if err := g.collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := names(); !slices.Equal(got, want) {
			t.Errorf("at %d%% of the disk there are %v, want %v", used(), got, want)
		}
	}
	stands := load("a:1", 0)
	if _, err := store.Mount(t.Context(), stands, "container", filepath.Join(dir, "root")); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-6 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "images", "blobs", "sha256", stands.Digest.Hex), old, old); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"b:1", "c:1", "d:1"} {
		load(name, time.Duration(4-i)*time.Hour)
	}
	if u := used(); u >= g.high {
		t.Fatalf("four images take %d%%", u)
	}
	collect("a:1", "b:1", "c:1", "d:1")
	load("young:1", 0)
	if u := used(); u < g.high {
		t.Fatalf("five images take %d%%", u)
	}
	collect("a:1", "d:1", "young:1")
	if u := used(); u > g.low {
		t.Errorf("the disk is %d%% full after it was collected down to %d%%", u, g.low)
	}
	if layers, err := os.ReadDir(filepath.Join(dir, "images", "layers")); err != nil || len(layers) != 3 {
		t.Errorf("%d layers are left: %v", len(layers), err)
	}

	// What a container stands on, and what is young, stays however full it is; that is told.
	if err := store.Remove(t.Context(), "d:1"); err != nil {
		t.Fatal(err)
	}
	load("young:2", 0)
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 34<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	collect("a:1", "young:1", "young:2")
	select {
	case e := <-events.Events:
		if !strings.Contains(e, "FreeDiskSpaceFailed") {
			t.Errorf("an event: %s", e)
		}
	default:
		t.Error("nobody was told that nothing could be freed")
	}
	if err := store.Unmount("container", filepath.Join(dir, "root")); err != nil {
		t.Fatal(fmt.Errorf("take the root away: %w", err))
	}
}
