package pod

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// What a pod's group may do in its volumes, beyond what modes say already: in
// those it may write to, in those it only reads, and in directories of both.
const (
	groupWrites  fs.FileMode = 0o660
	groupReads   fs.FileMode = 0o440
	groupEnters  fs.FileMode = 0o110
	groupSticks              = fs.ModeSetgid // new files get the directory's group
	chmodable                = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	noFollowLink             = fs.ModeSymlink
)

func fsGroup(pod *corev1.Pod) *int64 {
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

// give hands a volume's tree to the pod's group, as fsGroupChangePolicy says: all
// of it each time, or only if its root shows that it is not the group's yet.
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
	// The root comes last: its state says that all below was done.
	var root fs.FileInfo
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if path == dir {
			root = fi
			return nil
		}
		return giveOne(path, fi, int(*group), mask)
	})
	if err != nil {
		return err
	}
	return giveOne(dir, root, int(*group), mask)
}

func giveOne(path string, fi fs.FileInfo, group int, mask fs.FileMode) error {
	if err := os.Lchown(path, -1, group); err != nil {
		return err
	}
	if fi.Mode()&noFollowLink != 0 {
		return nil
	}
	return os.Chmod(path, withMask(fi, mask))
}

func withMask(fi fs.FileInfo, mask fs.FileMode) fs.FileMode {
	m := fi.Mode()&chmodable | mask
	if fi.IsDir() {
		m |= groupSticks | groupEnters
	}
	return m
}

// given: the root is the group's, with the rights it needs.
func given(dir string, group int, mask fs.FileMode) bool {
	fi, err := os.Lstat(dir)
	if err != nil {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Gid) == group && withMask(fi, mask) == fi.Mode()&chmodable
}
