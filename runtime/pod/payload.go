package pod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// payload is what a volume holds that is made of API objects, by path below it.
type payload map[string]payloadFile

type payloadFile struct {
	data  []byte
	mode  os.FileMode
	owner *int64 // nil: root
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
	return nil, errors.New("no volume plugin matched")
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
		return s.addToken(p, src.ServiceAccountToken, m)
	}
	return errors.New("this node does not support projections of this kind")
}

// addToken keeps the token for the one who is to read it, where there is one:
// the user of all containers, or who is in the pod's group.
func (s *sources) addToken(p payload, src *corev1.ServiceAccountTokenProjection, m os.FileMode) error {
	token, err := s.objects.Token(s.ctx, s.pod, src)
	if err != nil {
		return fmt.Errorf("failed to fetch token: %w", err)
	}
	owner := commonUser(s.pod)
	if owner != nil || fsGroup(s.pod) != nil {
		m = 0o600
	}
	if err := p.add(src.Path, []byte(token), m); err != nil {
		return err
	}
	p[filepath.Clean(src.Path)] = payloadFile{[]byte(token), m, owner}
	return nil
}

// commonUser is as whom all containers of the pod run by its specification; nil
// when they differ, or an image decides.
func commonUser(pod *corev1.Pod) *int64 {
	var user *int64
	all := append(append([]corev1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...)
	for i := range all {
		own := pick(pod.Spec.SecurityContext, all[i].SecurityContext,
			func(p *corev1.PodSecurityContext) *int64 { return p.RunAsUser }, func(s *corev1.SecurityContext) *int64 { return s.RunAsUser })
		if own == nil || user != nil && *user != *own {
			return nil
		}
		user = own
	}
	return user
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
	return p.addKeys("config", data, items, mayMiss, m)
}

func (s *sources) addSecret(p payload, name string, items []corev1.KeyToPath, mayMiss bool, m os.FileMode) error {
	secret, err := s.objects.Secret(s.ctx, s.pod.Namespace, name)
	if mayMiss && apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.addKeys("secret", secret.Data, items, mayMiss, m)
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

func (p payload) addKeys(kind string, data map[string][]byte, items []corev1.KeyToPath, mayMiss bool, m os.FileMode) error {
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
			return fmt.Errorf("references non-existent %s key: %s", kind, item.Key)
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
	p[filepath.Clean(path)] = payloadFile{data: data, mode: m}
	return nil
}

// showsMetadata: a volume of the pod shows its labels or annotations.
func showsMetadata(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.DownwardAPI != nil {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for j := range v.Projected.Sources {
			if v.Projected.Sources[j].DownwardAPI != nil {
				return true
			}
		}
	}
	return false
}

// VolumeObjects names the ConfigMaps and Secrets that the pod's volumes are made of.
func VolumeObjects(pod *corev1.Pod, name func(secret bool, name string)) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.ConfigMap != nil:
			name(false, v.ConfigMap.Name)
		case v.Secret != nil:
			name(true, v.Secret.SecretName)
		case v.Projected != nil:
			for j := range v.Projected.Sources {
				if c := v.Projected.Sources[j].ConfigMap; c != nil {
					name(false, c.Name)
				}
				if s := v.Projected.Sources[j].Secret; s != nil {
					name(true, s.Name)
				}
			}
		}
	}
}
