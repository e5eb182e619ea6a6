package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

func (w *Worker) setupEmptyDir(v *corev1.Volume, dir string) error {
	if _, err := os.Stat(dir); err != nil {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		// Beyond the umask: any user of the pod may write here.
		if err := os.Chmod(dir, 0o777); err != nil {
			return err
		}
	}
	switch m := v.EmptyDir.Medium; m {
	case corev1.StorageMediumDefault:
	case corev1.StorageMediumMemory:
		if mounted(dir) {
			break
		}
		opts := "mode=0777"
		node := w.deps.Allocatable()
		if size := memorySize(w.rec.Pod, v.EmptyDir, node.Memory().Value()); size > 0 {
			opts += fmt.Sprintf(",size=%d", size)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
			return fmt.Errorf("mount tmpfs: %w", err)
		}
	default:
		return fmt.Errorf("unknown storage medium %q", m)
	}
	g := fsGroup(w.rec.Pod)
	if g == nil || given(dir, int(*g), groupWrites) {
		return nil
	}
	return give(dir, w.rec.Pod, false)
}

// memorySize bounds a tmpfs: what the pod asks for, its memory limit and the
// node's memory, whichever is least; 0 if none of them is known.
func memorySize(pod *corev1.Pod, e *corev1.EmptyDirVolumeSource, allocatable int64) int64 {
	size := allocatable
	if limit := podResources(&pod.Spec).MemoryBytes; limit > 0 && (size <= 0 || limit < size) {
		size = limit
	}
	if e.SizeLimit != nil && !e.SizeLimit.IsZero() {
		if asked := e.SizeLimit.Value(); size <= 0 || asked < size {
			size = asked
		}
	}
	return max(size, 0)
}

// Measured says whether disk use of a pod has to be looked at: it has an emptyDir
// with a limit that no file system holds.
func Measured(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if limited(&pod.Spec.Volumes[i]) {
			return true
		}
	}
	return false
}

func limited(v *corev1.Volume) bool {
	e := v.EmptyDir
	return e != nil && e.Medium == corev1.StorageMediumDefault && e.SizeLimit != nil && e.SizeLimit.Sign() > 0
}

// OverLimit measures the emptyDirs of a pod whose directory is below dir, and
// says, in upstream's words, which of them holds more than it may; "" if none does.
func OverLimit(dir string, pod *corev1.Pod) string {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !limited(v) {
			continue
		}
		used, err := usage(filepath.Join(dir, string(pod.UID), volumesDir, v.Name))
		if err == nil && used > v.EmptyDir.SizeLimit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
		}
	}
	return ""
}

// usage is what a directory takes of its disk, in bytes: blocks, each inode once.
// Files that come and go while it looks are not an error.
func usage(dir string) (int64, error) {
	var total int64
	linked := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) && path != dir {
			return nil
		}
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if st.Nlink > 1 && !fi.IsDir() {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		total += st.Blocks * 512
		return nil
	})
	return total, err
}
