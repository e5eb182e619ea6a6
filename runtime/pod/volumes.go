package pod

import (
	"context"
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
	return writeAtomically(dir, payload, fsGroup(w.rec.Pod))
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
