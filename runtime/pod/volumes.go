package pod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// volumePath is where a volume of the pod lies on the host.
func (w *Worker) volumePath(v *corev1.Volume) string {
	if v.HostPath != nil {
		return v.HostPath.Path
	}
	return filepath.Join(w.dir, "volumes.d", v.Name)
}

// setupVolumes makes all volumes, or brings those with contents up to date. It can be repeated.
func (w *Worker) setupVolumes(s *sources) error {
	for i := range w.rec.Pod.Spec.Volumes {
		v := &w.rec.Pod.Spec.Volumes[i]
		if err := w.setupVolume(s, v); err != nil {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
		}
	}
	return nil
}

func (w *Worker) setupVolume(s *sources, v *corev1.Volume) error {
	dir := w.volumePath(v)
	switch {
	case v.HostPath != nil:
		return checkHostPath(v.HostPath)
	case v.EmptyDir != nil:
		return w.setupEmptyDir(v, dir)
	}
	payload, err := s.volume(&v.VolumeSource)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return writeAtomically(dir, payload, w.fsGroup())
}

func (w *Worker) fsGroup() *int64 {
	if sc := w.rec.Pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

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
	if v.EmptyDir.Medium == corev1.StorageMediumMemory && !mounted(dir) {
		opts := "mode=0777"
		if q := v.EmptyDir.SizeLimit; q != nil && !q.IsZero() {
			opts += fmt.Sprintf(",size=%d", q.Value())
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
			return fmt.Errorf("mount tmpfs: %w", err)
		}
	} else if m := v.EmptyDir.Medium; m != corev1.StorageMediumDefault && m != corev1.StorageMediumMemory {
		return fmt.Errorf("emptyDir medium %q is not supported on this node", m)
	}
	if g := w.fsGroup(); g != nil {
		return errors.Join(os.Chown(dir, -1, int(*g)), os.Chmod(dir, os.ModeSetgid|0o777))
	}
	return nil
}

func checkHostPath(h *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	fi, err := os.Stat(h.Path)
	missing := errors.Is(err, os.ErrNotExist)
	switch {
	case kind == corev1.HostPathDirectoryOrCreate && missing:
		return os.MkdirAll(h.Path, 0o755)
	case kind == corev1.HostPathFileOrCreate && missing:
		f, err := os.OpenFile(h.Path, os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	case kind == corev1.HostPathUnset && missing:
		return os.MkdirAll(h.Path, 0o755) // as container engines always did
	case err != nil:
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, hostPathWords[kind])
	}
	mode := fi.Mode()
	ok := true
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok = mode.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok = mode.IsRegular()
	case corev1.HostPathSocket:
		ok = mode&os.ModeSocket != 0
	case corev1.HostPathCharDev:
		ok = mode&os.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		ok = mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, hostPathWords[kind])
	}
	return nil
}

var hostPathWords = map[corev1.HostPathType]string{
	corev1.HostPathUnset: "path", corev1.HostPathDirectory: "directory", corev1.HostPathDirectoryOrCreate: "directory",
	corev1.HostPathFile: "file", corev1.HostPathFileOrCreate: "file", corev1.HostPathSocket: "socket file",
	corev1.HostPathCharDev: "character device", corev1.HostPathBlockDev: "block device",
}

// removeVolumes unmounts and removes what setupVolumes made. hostPath stays.
func (w *Worker) removeVolumes() error {
	root := filepath.Join(w.dir, "volumes.d")
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := filepath.Join(root, e.Name())
		for mounted(p) {
			if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				return fmt.Errorf("unmount %s: %w", p, err)
			}
		}
	}
	return os.RemoveAll(root)
}

func mounted(dir string) bool {
	var self, parent unix.Statx_t
	return unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &self) == nil &&
		unix.Statx(unix.AT_FDCWD, filepath.Dir(dir), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &parent) == nil &&
		self.Mnt_id != parent.Mnt_id
}

// volume gathers the files of a volume that is made of API objects.
func (s *sources) volume(v *corev1.VolumeSource) (payload, error) {
	p := payload{}
	switch {
	case v.ConfigMap != nil:
		return p, s.addConfigMap(p, v.ConfigMap.Name, v.ConfigMap.Items, optional(v.ConfigMap.Optional), mode(v.ConfigMap.DefaultMode))
	case v.Secret != nil:
		return p, s.addSecret(p, v.Secret.SecretName, v.Secret.Items, optional(v.Secret.Optional), mode(v.Secret.DefaultMode))
	case v.DownwardAPI != nil:
		return p, s.addDownward(p, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode))
	case v.Projected != nil:
		m := mode(v.Projected.DefaultMode)
		for i := range v.Projected.Sources {
			if err := s.addProjection(p, &v.Projected.Sources[i], m); err != nil {
				return nil, err
			}
		}
		return p, nil
	}
	return nil, errors.New("this node does not support volumes of this kind")
}

func mode(m *int32) os.FileMode {
	if m == nil {
		return 0o644
	}
	return os.FileMode(*m) & os.ModePerm
}

func (s *sources) addProjection(p payload, src *corev1.VolumeProjection, m os.FileMode) error {
	switch {
	case src.ConfigMap != nil:
		return s.addConfigMap(p, src.ConfigMap.Name, src.ConfigMap.Items, optional(src.ConfigMap.Optional), m)
	case src.Secret != nil:
		return s.addSecret(p, src.Secret.Name, src.Secret.Items, optional(src.Secret.Optional), m)
	case src.DownwardAPI != nil:
		return s.addDownward(p, src.DownwardAPI.Items, m)
	case src.ServiceAccountToken != nil:
		token, err := s.objects.Token(s.ctx, s.pod, src.ServiceAccountToken)
		if err != nil {
			return fmt.Errorf("failed to fetch token: %w", err)
		}
		return p.add(src.ServiceAccountToken.Path, []byte(token), 0o600)
	}
	return errors.New("this node does not support projections of this kind")
}

func (s *sources) addConfigMap(p payload, name string, items []corev1.KeyToPath, mayMiss bool, m os.FileMode) error {
	cm, err := s.objects.ConfigMap(s.ctx, s.pod.Namespace, name)
	if mayMiss && apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	data := map[string][]byte{}
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return p.addKeys(data, items, mayMiss, m)
}

func (s *sources) addSecret(p payload, name string, items []corev1.KeyToPath, mayMiss bool, m os.FileMode) error {
	secret, err := s.objects.Secret(s.ctx, s.pod.Namespace, name)
	if mayMiss && apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.addKeys(secret.Data, items, mayMiss, m)
}

func (s *sources) addDownward(p payload, items []corev1.DownwardAPIVolumeFile, m os.FileMode) error {
	for _, f := range items {
		var value string
		var err error
		switch {
		case f.FieldRef != nil:
			value, err = s.field(f.FieldRef.FieldPath)
		case f.ResourceFieldRef != nil:
			value, err = s.resource(f.ResourceFieldRef, f.ResourceFieldRef.ContainerName)
		}
		if err != nil {
			return err
		}
		fm := m
		if f.Mode != nil {
			fm = mode(f.Mode)
		}
		if err := p.add(f.Path, []byte(value), fm); err != nil {
			return err
		}
	}
	return nil
}

// payload is what a volume holds, by path below it.
type payload map[string]payloadFile

type payloadFile struct {
	data []byte
	mode os.FileMode
}

func (p payload) addKeys(data map[string][]byte, items []corev1.KeyToPath, mayMiss bool, m os.FileMode) error {
	if len(items) == 0 {
		for k, v := range data {
			if err := p.add(k, v, m); err != nil {
				return err
			}
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if mayMiss {
				continue
			}
			return fmt.Errorf("references non-existent config key: %s", item.Key)
		}
		fm := m
		if item.Mode != nil {
			fm = mode(item.Mode)
		}
		if err := p.add(item.Path, v, fm); err != nil {
			return err
		}
	}
	return nil
}

// add refuses paths that would leave the volume or hide its bookkeeping.
func (p payload) add(path string, data []byte, m os.FileMode) error {
	if path == "" || filepath.IsAbs(path) || !filepath.IsLocal(path) || strings.HasPrefix(path, "..") {
		return fmt.Errorf("invalid path %q in volume", path)
	}
	p[filepath.Clean(path)] = payloadFile{data, m}
	return nil
}
