package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"kontiki/apiserver/kind"
)

// filePath is a path within a volume and, where a volume has several sources, the one
// that it is of.
type filePath struct{ path, source string }

func (p filePath) String() string {
	if p.source == "" {
		return fmt.Sprintf("%q", p.path)
	}
	return fmt.Sprintf("%q (%s)", p.path, p.source)
}

// overlaps tells whether one is the other, or would lie in it.
func (p filePath) overlaps(q filePath) bool {
	if p.path == "" || q.path == "" {
		return false
	}
	return strings.HasPrefix(p.path+"/", q.path+"/") || strings.HasPrefix(q.path+"/", p.path+"/")
}

// overlappingPaths warns of volumes in which one file takes the place of another.
func overlappingPaths(volumes []corev1.Volume) []string {
	var out []string
	for i := range volumes {
		v := &volumes[i]
		if c := v.ConfigMap; c != nil {
			out = append(out, overlaps(v.Name, fmt.Sprintf("ConfigMap %q", c.Name), keyPaths(c.Items, ""))...)
		}
		if s := v.Secret; s != nil {
			out = append(out, overlaps(v.Name, fmt.Sprintf("Secret %q", s.SecretName), keyPaths(s.Items, ""))...)
		}
		if d := v.DownwardAPI; d != nil {
			out = append(out, overlaps(v.Name, "DownwardAPI", downwardPaths(d.Items, ""))...)
		}
		if v.Projected == nil {
			continue
		}
		var all []filePath
		for _, s := range v.Projected.Sources {
			if s == (corev1.VolumeProjection{}) {
				out = append(out, fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
				continue
			}
			all = append(all, projectedPaths(&s)...)
		}
		out = append(out, overlaps(v.Name, "Projected", all)...)
	}
	return out
}

func overlaps(volume, what string, paths []filePath) []string {
	var out []string
	for i := range paths {
		paths[i].path = strings.TrimRight(paths[i].path, "/")
		for _, before := range paths[:i] {
			if paths[i].overlaps(before) {
				out = append(out, fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", volume, what, paths[i], before))
			}
		}
	}
	return out
}

func keyPaths(items []corev1.KeyToPath, source string) []filePath {
	var all []filePath
	for _, item := range items {
		all = append(all, filePath{item.Path, source})
	}
	return all
}

func downwardPaths(items []corev1.DownwardAPIVolumeFile, source string) []filePath {
	var all []filePath
	for _, item := range items {
		all = append(all, filePath{item.Path, source})
	}
	return all
}

func projectedPaths(s *corev1.VolumeProjection) []filePath {
	switch {
	case s.ConfigMap != nil:
		return keyPaths(s.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name))
	case s.Secret != nil:
		return keyPaths(s.Secret.Items, fmt.Sprintf("Secret %q", s.Secret.Name))
	case s.DownwardAPI != nil:
		return downwardPaths(s.DownwardAPI.Items, "DownwardAPI")
	case s.ServiceAccountToken != nil:
		return []filePath{{s.ServiceAccountToken.Path, "ServiceAccountToken"}}
	case s.ClusterTrustBundle != nil:
		name := s.ClusterTrustBundle.Name
		if name == nil {
			name = s.ClusterTrustBundle.SignerName
		}
		return []filePath{{s.ClusterTrustBundle.Path, fmt.Sprintf("ClusterTrustBundle %q", kind.Or(name, ""))}}
	case s.PodCertificate != nil:
		return []filePath{
			{s.PodCertificate.CertificateChainPath, "PodCertificate chain"},
			{s.PodCertificate.KeyPath, "PodCertificate key"},
			{s.PodCertificate.CredentialBundlePath, "PodCertificate credential bundle"},
		}
	}
	return nil
}
