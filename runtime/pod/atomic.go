package pod

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

const dataLink = "..data"

// writeAtomically makes a volume hold exactly the payload, seen all at once by
// its readers: files lie in a fresh "..NAME" directory, "..data" is a link that is
// renamed onto it, and every visible name is a link through "..data". This is
// upstream's layout, and programs that watch "..data" rely on it.
func writeAtomically(dir string, p payload, group *int64) error {
	old, _ := os.Readlink(filepath.Join(dir, dataLink))
	if old != "" && same(filepath.Join(dir, old), p) {
		return link(dir, p)
	}
	fresh, err := os.MkdirTemp(dir, "..v")
	if err != nil {
		return err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return err
	}
	for name, f := range p {
		if err := writePayload(filepath.Join(fresh, name), f, group); err != nil {
			return errors.Join(err, os.RemoveAll(fresh))
		}
	}
	tmp := filepath.Join(dir, "..data_tmp")
	_ = os.Remove(tmp)
	if err := os.Symlink(filepath.Base(fresh), tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	if err := link(dir, p); err != nil {
		return err
	}
	return sweepVersions(dir, filepath.Base(fresh))
}

func writePayload(path string, f payloadFile, group *int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, f.data, 0o600); err != nil {
		return err
	}
	m, user, gid := f.mode, -1, -1
	if f.owner != nil {
		user = int(*f.owner)
	}
	if group != nil {
		gid = int(*group)
		m |= groupReads
	}
	if user >= 0 || gid >= 0 {
		if err := os.Chown(path, user, gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, m) // beyond the umask
}

// same says whether a version holds the payload already.
func same(version string, p payload) bool {
	n := 0
	err := filepath.WalkDir(version, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(version, path)
		b, err := os.ReadFile(path)
		if f, ok := p[rel]; err != nil || !ok || !bytes.Equal(b, f.data) {
			return errors.New("differs")
		}
		n++
		return nil
	})
	return err == nil && n == len(p)
}

// link makes the visible names and removes those that are no more.
func link(dir string, p payload) error {
	want := map[string]bool{}
	for name := range p {
		top, _, _ := strings.Cut(name, "/")
		want[top] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		if !want[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
		delete(want, e.Name())
	}
	for name := range want {
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func sweepVersions(dir, keep string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), "..v") && e.Name() != keep {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
