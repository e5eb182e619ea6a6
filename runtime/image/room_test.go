package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhatFitsOnADisk(t *testing.T) {
	const mb, gb = 1 << 20, 1 << 30
	for _, tc := range []struct {
		name string
		disk space
		more int64
		ok   bool
	}{
		{"a twentieth is left", space{bytes: 100 * mb, freeBytes: 5 * mb}, 0, true},
		{"less is left", space{bytes: 100 * mb, freeBytes: 5*mb - 1}, 0, false},
		{"what comes leaves a twentieth", space{bytes: 100 * mb, freeBytes: 50 * mb}, 45 * mb, true},
		{"what comes leaves less", space{bytes: 100 * mb, freeBytes: 50 * mb}, 45*mb + 1, false},
		{"of a large disk a GiB is enough", space{bytes: 10_000 * gb, freeBytes: gb}, 0, true},
		{"and less is not", space{bytes: 10_000 * gb, freeBytes: gb - 1}, 0, false},
		{"a size below zero takes nothing", space{bytes: 100 * mb, freeBytes: 5 * mb}, -1, true},
		{"few inodes", space{bytes: gb, freeBytes: gb, inodes: 1000, freeInodes: 49}, 0, false},
		{"enough inodes", space{bytes: gb, freeBytes: gb, inodes: 1000, freeInodes: 50}, 0, true},
		{"many inodes", space{bytes: gb, freeBytes: gb, inodes: 1 << 40, freeInodes: 100_000}, 0, true},
	} {
		if _, _, err := tc.disk.beyond(tc.more); (err == nil) != tc.ok || err != nil && !errors.Is(err, ErrNoRoom) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// TestNoRoom loads and unpacks on a small disk what is larger than it.
func TestNoRoom(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	const size = 16 << 20
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(of ...string) {
		t.Helper()
		for _, d := range of {
			if left, err := os.ReadDir(s.path(d)); err != nil || len(left) != 0 {
				t.Errorf("%s holds %v (%v)", d, left, err)
			}
		}
	}
	large := tarOf(t, file("large", strings.Repeat("x", 2*size)))
	if _, err := s.Load(t.Context(), bytes.NewReader(large), ""); !errors.Is(err, ErrNoRoom) {
		t.Errorf("an archive that is larger than the disk: %v", err)
	}
	nothing("tmp", "blobs/sha256")

	var crumbs []tar.Header
	for i := range 64 {
		crumbs = append(crumbs, file(fmt.Sprint(i), strings.Repeat("x", size/32)))
	}
	for name, layer := range map[string][]byte{"bomb": large, "shrapnel": tarOf(t, crumbs...)} {
		images, err := s.Load(t.Context(), bytes.NewReader(ociArchive(t, name, []string{s.platform.Architecture}, layer)), "")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Unpack(t.Context(), images[0]); !errors.Is(err, ErrNoRoom) {
			t.Errorf("%s unpacked: %v", name, err)
		}
		nothing("tmp", "layers")
	}
}
