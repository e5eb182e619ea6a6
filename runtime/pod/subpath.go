package pod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/mount"
)

// A subPath is looked up inside its volume by openat2(2) with RESOLVE_BENEATH, so
// that no link, not even one that a container swaps in meanwhile, leads out of
// it; what was found is pinned by a bind mount of the descriptor, and the container gets
// that mount. One lives as long as its container's attempt:
//
//	subpaths.d/CONTAINER/ATTEMPT-INDEX

// subPath pins what a path inside a volume is, making directories that are missing.
func (w *Worker) subPath(volume, sub, container string, attempt, index int) (string, error) {
	if !filepath.IsLocal(sub) {
		return "", fmt.Errorf("subPath %q leaves the volume", sub)
	}
	root, err := unix.Open(volume, unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", fmt.Errorf("open volume %s: %w", volume, err)
	}
	defer unix.Close(root)
	found, err := beneath(root, filepath.Clean(sub))
	if err != nil {
		return "", err
	}
	defer unix.Close(found)
	pin := filepath.Join(w.dir, subPathsDir, container, fmt.Sprintf("%d-%d", attempt, index))
	if err := unmountAll(pin); err != nil { // of a try before this one
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(found, &st); err != nil {
		return "", err
	}
	if err := makePin(pin, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return "", err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", found), pin, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("bind subPath %q: %w", sub, err)
	}
	return pin, nil
}

// beneath opens a path below root. Directories that are missing get root's mode.
func beneath(root int, sub string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	open := func(path string) (int, error) {
		fd, err := unix.Openat2(root, path, &how)
		if errors.Is(err, unix.EXDEV) {
			return -1, fmt.Errorf("subPath %q leads out of its volume through a link", sub)
		}
		return fd, err
	}
	fd, err := open(sub)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return -1, err
	}
	names := strings.Split(sub, "/")
	dir, err := open(".")
	for i := 0; err == nil && i < len(names); i++ {
		err = makeIn(dir, names[i], st.Mode&0o7777)
		unix.Close(dir)
		if err == nil {
			dir, err = open(strings.Join(names[:i+1], "/"))
		}
	}
	if err != nil {
		return -1, fmt.Errorf("failed to create subPath directory: %w", err)
	}
	return dir, nil
}

// makeIn makes a directory in an open one; one that is there is left as it is.
func makeIn(dir int, name string, mode uint32) error {
	err := unix.Mkdirat(dir, name, mode)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(dir, name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fchmod(fd, mode) // beyond the umask
}

func makePin(pin string, dir bool) error {
	if err := os.MkdirAll(filepath.Dir(pin), 0o700); err != nil {
		return err
	}
	if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if dir {
		return os.Mkdir(pin, 0o700)
	}
	f, err := os.OpenFile(pin, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// removeSubPaths lets go of a container's subPaths, or of all ("").
func (w *Worker) removeSubPaths(container string) error {
	root := filepath.Join(w.dir, subPathsDir, container)
	if err := mount.DetachBelow(root); err != nil {
		return err // never remove what is mounted there
	}
	return os.RemoveAll(root)
}

// mountSource is what of a volume a container gets.
func (w *Worker) mountSource(c *corev1.Container, index int, vars map[string]string) (string, *corev1.Volume, error) {
	m := &c.VolumeMounts[index]
	for i := range w.rec.Pod.Spec.Volumes {
		v := &w.rec.Pod.Spec.Volumes[i]
		if v.Name != m.Name {
			continue
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			expanded, missing := expandStrictly(m.SubPathExpr, vars)
			if missing != "" {
				return "", nil, fmt.Errorf("missing value for %q", missing)
			}
			sub = expanded
		}
		if sub == "" {
			return w.volumePath(v), v, nil
		}
		pin, err := w.subPath(w.volumePath(v), sub, c.Name, w.rec.Containers[c.Name].Attempt, index)
		if err != nil {
			return "", nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, c.Name, err)
		}
		return pin, v, nil
	}
	return "", nil, fmt.Errorf("volume %q of the container is not in the pod", m.Name)
}

// expandStrictly expands $(NAME) and names the first variable that does not exist.
func expandStrictly(s string, vars map[string]string) (expanded, missing string) {
	const open = "$("
	known := map[string]string{}
	for i := 0; i < len(s); i++ {
		if s[i] == '$' && i+1 < len(s) && s[i+1] == '$' {
			i++
			continue
		}
		if strings.HasPrefix(s[i:], open) {
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				break
			}
			name := s[i+len(open) : i+end]
			value, ok := vars[name]
			if !ok {
				return "", name
			}
			known[name] = value
			i += end
		}
	}
	return expand(s, known), ""
}
