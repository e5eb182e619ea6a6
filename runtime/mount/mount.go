// Package mount finds and takes away what is mounted below directories of this node.
//
// The kernel tells paths with links resolved and with some characters escaped. A
// directory is resolved here before it is compared: one behind a link has no mounts otherwise, and
// what is removed there would be removed through them. It holds no state; everybody may call it.
package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Points are the mount points at dir and below it, as they were mounted; none if there is no dir.
func Points(dir string) ([]string, error) {
	dir, err := resolve(dir)
	if err != nil || dir == "" {
		return nil, err
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return pointsIn(string(table), dir), nil
}

// DetachBelow takes away all that is mounted below dir, what was mounted last first, but not what
// dir itself may be a mount of. After an error something may be mounted still: remove nothing there.
func DetachBelow(dir string) error {
	points, err := below(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	left, err := below(dir)
	if err != nil || len(left) == 0 {
		return err // one that failed went with another
	}
	return errors.Join(append(errs, fmt.Errorf("something is mounted at %s", left[0]))...)
}

func below(dir string) ([]string, error) {
	points, err := Points(dir)
	if err != nil || len(points) == 0 {
		return nil, err
	}
	dir, err = resolve(dir)
	return slices.DeleteFunc(points, func(p string) bool { return p == dir }), err
}

func resolve(dir string) (string, error) {
	resolved, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return filepath.Abs(resolved)
}

// pointsIn reads a table of mountinfo (proc(5)): the fifth field is the mount point.
func pointsIn(table, dir string) (points []string) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if p := unescape.Replace(f[4]); p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/") {
			points = append(points, p)
		}
	}
	return points
}

// unescape undoes what the kernel does to the characters that part fields and lines.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")
