package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// What a pod's group may do in its volumes, beyond what modes say already: in
// those it may write to, in those it only reads, and in directories of both.
const (
	groupWrites fs.FileMode = 0o660
	groupReads  fs.FileMode = 0o440
	groupEnters fs.FileMode = 0o110
	groupSticks             = fs.ModeSetgid // new files get the directory's group
	chmodable               = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
)

// deepest is how many directories below each other a volume may have to be given; each holds a descriptor.
const deepest = 1000

func fsGroup(pod *corev1.Pod) *int64 {
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

// give hands a volume's tree to the pod's group, as fsGroupChangePolicy says: all
// of it each time, or only if its root shows that it is not the group's yet. Others may have the
// volume mounted and change it meanwhile: what is changed is held by its descriptor, and no link is followed.
func give(dir string, pod *corev1.Pod, readOnly bool) error {
	group := fsGroup(pod)
	if group == nil {
		return nil
	}
	mask := groupWrites
	if readOnly {
		mask = groupReads
	}
	policy := pod.Spec.SecurityContext.FSGroupChangePolicy
	if policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch && given(dir, int(*group), mask) {
		return nil
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open volume %s: %w", dir, err)
	}
	return giveOpen(os.NewFile(uintptr(fd), dir), int(*group), mask, 0)
}

// giveOpen gives what is open as a path (O_PATH), and closes it. What is in a directory comes before
// it: the state of the root says that all below was done.
func giveOpen(f *os.File, group int, mask fs.FileMode, depth int) error {
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.IsDir() {
		if err := giveInside(f, group, mask, depth); err != nil {
			return err
		}
	}
	if err := unix.Fchownat(int(f.Fd()), "", -1, group, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("chown %s: %w", f.Name(), err)
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	return os.Chmod(throughProc(f), withMask(fi, mask))
}

// giveInside gives all that a directory holds; what is removed meanwhile needs no owner.
func giveInside(dir *os.File, group int, mask fs.FileMode, depth int) error {
	if depth == deepest {
		return fmt.Errorf("%s: more than %d directories below each other", dir.Name(), deepest)
	}
	names, err := namesIn(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open %s/%s: %w", dir.Name(), name, err)
		}
		if err := giveOpen(os.NewFile(uintptr(fd), dir.Name()+"/"+name), group, mask, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func namesIn(dir *os.File) ([]string, error) {
	d, err := os.Open(throughProc(dir))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// throughProc is a path to what is open, wherever it is by now.
func throughProc(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

func withMask(fi fs.FileInfo, mask fs.FileMode) fs.FileMode {
	m := fi.Mode()&chmodable | mask
	if fi.IsDir() {
		m |= groupSticks | groupEnters
	}
	return m
}

// given: the root is the group's, with the rights it needs.
func given(dir string, group int, mask fs.FileMode) bool {
	fi, err := os.Stat(dir)
	if err != nil {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Gid) == group && withMask(fi, mask) == fi.Mode()&chmodable
}
