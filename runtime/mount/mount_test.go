package mount

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPointsIn(t *testing.T) {
	const table = `21 1 0:19 / /data rw shared:1 - tmpfs tmpfs rw
22 21 0:20 / /data/with\040space/a rw shared:2 - tmpfs tmpfs rw
23 21 0:21 / /data/with\040space/a/b\134c rw - tmpfs tmpfs rw
24 21 0:22 / /data/without rw - tmpfs tmpfs rw
short
`
	for dir, want := range map[string][]string{
		"/data/with space":   {"/data/with space/a", `/data/with space/a/b\c`},
		"/data/with space/a": {"/data/with space/a", `/data/with space/a/b\c`},
		"/data/with":         nil,
		"/":                  {"/data", "/data/with space/a", `/data/with space/a/b\c`, "/data/without"},
	} {
		if got := pointsIn(table, dir); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", dir, got, want)
		}
	}
}

// TestDetachBelow: mounts are found behind a link and a space, and go the last first.
func TestDetachBelow(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	real, link := filepath.Join(t.TempDir(), "with space"), filepath.Join(t.TempDir(), "link")
	if err := os.Mkdir(real, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	points := []string{real, filepath.Join(real, "a"), filepath.Join(real, "a", "b"), filepath.Join(real, "a", "b")}
	t.Cleanup(func() {
		for _, p := range slices.Backward(points) {
			_ = unix.Unmount(p, unix.MNT_DETACH) // what the test took away is not there
		}
	})
	for _, p := range points {
		if err := os.MkdirAll(p, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", p, "tmpfs", 0, "size=64k"); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Points(link); err != nil || !slices.Equal(got, points) {
		t.Errorf("mounted: %q (%v), want %q", got, err, points)
	}
	if err := DetachBelow(link); err != nil {
		t.Fatal(err)
	}
	if got, err := Points(link); err != nil || !slices.Equal(got, points[:1]) {
		t.Errorf("left: %q (%v), want %q", got, err, points[:1])
	}
	if got, err := Points(filepath.Join(link, "absent")); err != nil || got != nil {
		t.Errorf("of what is not there: %q (%v)", got, err)
	}
}
