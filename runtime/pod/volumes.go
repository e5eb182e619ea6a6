package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/mount"
)

// Where volumes lie below the pod's directory.
const (
	volumesDir  = "volumes.d"
	subPathsDir = "subpaths.d"
)

// volumePath is where a volume of the pod lies on the host.
func (w *Worker) volumePath(v *corev1.Volume) string {
	if v.HostPath != nil {
		return v.HostPath.Path
	}
	if c, ok := w.rec.Claims[v.Name]; ok {
		return c.Path
	}
	return filepath.Join(w.dir, volumesDir, v.Name)
}

// setupVolumes makes all volumes, or brings those with contents up to date. It can be repeated.
func (w *Worker) setupVolumes(s *sources) error {
	for i := range w.rec.Pod.Spec.Volumes {
		v := &w.rec.Pod.Spec.Volumes[i]
		name := v.Name
		if ClaimOf(w.rec.Pod, v) != "" {
			if err := w.claim(s, v); err != nil {
				return fmt.Errorf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[], failed to process volumes=[%s]: %w", v.Name, v.Name, err)
			}
			name = w.rec.Claims[v.Name].Volume
		}
		if err := w.setupVolume(s, v); err != nil {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", name, err)
		}
	}
	return nil
}

// askTokens asks for what the volumes need of the API and is made there, beside the making of the sandbox. Errors
// are told when the volumes are made.
func (w *Worker) askTokens(ctx context.Context) {
	pod := w.rec.Pod
	if w.rec.Stopping != nil || w.rec.Gone || pod.DeletionTimestamp != nil {
		return
	}
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Projected == nil {
			continue
		}
		for _, source := range pod.Spec.Volumes[i].Projected.Sources {
			if t := source.ServiceAccountToken; t != nil {
				w.jobs.Go(func() { _, _ = w.deps.Objects.Token(ctx, pod, t) })
			}
		}
	}
}

func (w *Worker) setupVolume(s *sources, v *corev1.Volume) error {
	dir := w.volumePath(v)
	switch {
	case v.HostPath != nil:
		return checkHostPath(v.HostPath)
	case v.EmptyDir != nil:
		return w.setupEmptyDir(v, dir)
	case ClaimOf(w.rec.Pod, v) != "":
		return w.setupClaim(v)
	}
	payload, err := s.volume(&v.VolumeSource)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if keepsInMemory(&v.VolumeSource) {
		if err := w.inMemory(dir); err != nil {
			return err
		}
	} else if _, err := os.Lstat(filepath.Join(dir, dataLink)); errors.Is(err, os.ErrNotExist) {
		// Upstream's, whatever the umask; later it is the containers'.
		if err := os.Chmod(dir, 0o777); err != nil {
			return err
		}
	}
	return writeAtomically(dir, payload, fsGroup(w.rec.Pod))
}

// keepsInMemory: what may be secret never comes to lie on a disk.
func keepsInMemory(v *corev1.VolumeSource) bool {
	return v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// inMemory makes an empty directory a file system in memory. One that holds something is either
// that already or was filled by an agent before this one that did not do so: its
// containers see that directory, and it stays what it is.
func (w *Worker) inMemory(dir string) error {
	if mounted(dir) {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return err
	}
	return w.mountMemory(dir, 0o1777, &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory})
}

// mountMemory mounts a tmpfs that is as large as memorySize says, and is not swapped out where the kernel can promise that (Linux 6.4).
func (w *Worker) mountMemory(dir string, mode os.FileMode, e *corev1.EmptyDirVolumeSource) error {
	opts := fmt.Sprintf("mode=%#o", mode)
	node := w.deps.Allocatable()
	if size := memorySize(w.rec.Pod, e, node.Memory().Value()); size > 0 {
		opts += fmt.Sprintf(",size=%d", size)
	}
	err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts+",noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts)
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	return nil
}

// removeVolumes unmounts and removes what setupVolumes and subPaths made. What
// lies on the host or belongs to a claim stays.
func (w *Worker) removeVolumes() error {
	if err := w.removeSubPaths(""); err != nil {
		return err
	}
	root := filepath.Join(w.dir, volumesDir)
	// A container with Bidirectional propagation may have left mounts inside.
	if err := mount.DetachBelow(root); err != nil {
		return err // never remove through one that is still there
	}
	return os.RemoveAll(root)
}

// unmountAll takes away what is mounted at a path of ours, however often.
func unmountAll(path string) error {
	for mounted(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	return nil
}

func mounted(dir string) bool {
	var self, parent unix.Statx_t
	return unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &self) == nil &&
		unix.Statx(unix.AT_FDCWD, filepath.Dir(dir), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &parent) == nil &&
		self.Mnt_id != parent.Mnt_id
}
