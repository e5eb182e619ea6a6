package pod

import (
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func (w *Worker) setupEmptyDir(v *corev1.Volume, dir string) error {
	fresh := false
	if _, err := os.Stat(dir); err != nil {
		fresh = true
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
		if err := w.mountMemory(dir, 0o777, v.EmptyDir); err != nil {
			return err
		}
		fresh = true
	default:
		return fmt.Errorf("unknown storage medium %q", m)
	}
	return w.giveOnce(v.Name, dir, fresh)
}

// giveOnce gives an emptyDir to the pod's group before anybody uses it. What containers make of it
// afterwards is theirs, so it is given once in its life; one of memory begins anew after a reboot.
func (w *Worker) giveOnce(volume, dir string, fresh bool) error {
	if fsGroup(w.rec.Pod) == nil || w.rec.Given[volume] && !fresh {
		return nil
	}
	if err := give(dir, w.rec.Pod, false); err != nil {
		return err
	}
	if w.rec.Given == nil {
		w.rec.Given = map[string]bool{}
	}
	w.rec.Given[volume] = true // durable before a container starts: until then giving it again does no harm
	return nil
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

// Limited are the emptyDirs of a pod whose limits no file system holds, by name.
func Limited(pod *corev1.Pod) map[string]resource.Quantity {
	var limits map[string]resource.Quantity
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if e := v.EmptyDir; e != nil && e.Medium == corev1.StorageMediumDefault && e.SizeLimit != nil && e.SizeLimit.Sign() > 0 {
			if limits == nil {
				limits = map[string]resource.Quantity{}
			}
			limits[v.Name] = *e.SizeLimit
		}
	}
	return limits
}

// VolumeDir is where an emptyDir of a pod lies whose directory is below podsDir.
func VolumeDir(podsDir string, pod *corev1.Pod, volume string) string {
	return filepath.Join(podsDir, string(pod.UID), volumesDir, volume)
}
