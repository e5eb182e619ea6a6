package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateVolumes checks the volumes of a pod and returns them by name.
func validateVolumes(volumes []corev1.Volume, path *field.Path) (map[string]corev1.VolumeSource, field.ErrorList) {
	var errs field.ErrorList
	known := map[string]corev1.VolumeSource{}
	for i, v := range volumes {
		at := path.Index(i)
		named := validateVolumeName(v.Name, at.Child("name"))
		if _, ok := known[v.Name]; ok {
			named = append(named, field.Duplicate(at.Child("name"), v.Name))
		}
		errs = append(errs, validateVolumeSource(&v.VolumeSource, at)...)
		if len(named) == 0 {
			known[v.Name] = v.VolumeSource
		}
		errs = append(errs, named...)
	}
	return known, errs
}

func validateVolumeName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return validateDNS1123Label(name, at)
}

// validateVolumeSource checks the sources that nodes of this project can mount;
// the rest is kept as it is and refused by the node with an event.
func validateVolumeSource(s *corev1.VolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	n := 0
	one := func(child string) bool {
		n++
		if n > 1 {
			errs = append(errs, field.Forbidden(at.Child(child), "may not specify more than 1 volume type"))
		}
		return n == 1
	}
	if s.EmptyDir != nil && one("emptyDir") && s.EmptyDir.SizeLimit != nil && s.EmptyDir.SizeLimit.Sign() < 0 {
		errs = append(errs, field.Forbidden(at.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity"))
	}
	if s.HostPath != nil && one("hostPath") {
		to := at.Child("hostPath")
		if s.HostPath.Path == "" {
			errs = append(errs, field.Required(to.Child("path"), ""))
		} else {
			errs = append(errs, noBacksteps(s.HostPath.Path, to.Child("path"))...)
		}
		if t := s.HostPath.Type; t != nil && *t != corev1.HostPathUnset {
			errs = append(errs, oneOf(*t, to.Child("type"), corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory,
				corev1.HostPathFileOrCreate, corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)...)
		}
	}
	if s.Secret != nil && one("secret") {
		to := at.Child("secret")
		if s.Secret.SecretName == "" {
			errs = append(errs, field.Required(to.Child("secretName"), ""))
		}
		errs = append(errs, validateMode(s.Secret.DefaultMode, to.Child("defaultMode"))...)
		errs = append(errs, validateKeysToPaths(s.Secret.Items, to.Child("items"))...)
	}
	if s.ConfigMap != nil && one("configMap") {
		to := at.Child("configMap")
		if s.ConfigMap.Name == "" {
			errs = append(errs, field.Required(to.Child("name"), ""))
		}
		errs = append(errs, validateMode(s.ConfigMap.DefaultMode, to.Child("defaultMode"))...)
		errs = append(errs, validateKeysToPaths(s.ConfigMap.Items, to.Child("items"))...)
	}
	if s.DownwardAPI != nil && one("downwardAPI") {
		errs = append(errs, validateMode(s.DownwardAPI.DefaultMode, at.Child("downwardAPI", "defaultMode"))...)
		errs = append(errs, validateDownwardItems(s.DownwardAPI.Items, at.Child("downwardAPI"))...)
	}
	if s.Projected != nil && one("projected") {
		errs = append(errs, validateProjected(s.Projected, at.Child("projected"))...)
	}
	if s.PersistentVolumeClaim != nil && one("persistentVolumeClaim") && s.PersistentVolumeClaim.ClaimName == "" {
		errs = append(errs, field.Required(at.Child("persistentVolumeClaim", "claimName"), ""))
	}
	if s.NFS != nil && one("nfs") {
		if s.NFS.Server == "" {
			errs = append(errs, field.Required(at.Child("nfs", "server"), ""))
		}
		if s.NFS.Path == "" {
			errs = append(errs, field.Required(at.Child("nfs", "path"), ""))
		} else if !strings.HasPrefix(s.NFS.Path, "/") {
			errs = append(errs, field.Invalid(at.Child("nfs", "path"), s.NFS.Path, "must be an absolute path"))
		}
	}
	if s.CSI != nil && one("csi") && s.CSI.Driver == "" {
		errs = append(errs, field.Required(at.Child("csi", "driver"), ""))
	}
	if s.Ephemeral != nil && one("ephemeral") && s.Ephemeral.VolumeClaimTemplate == nil {
		errs = append(errs, field.Required(at.Child("ephemeral", "volumeClaimTemplate"), ""))
	}
	if s.Image != nil && one("image") && s.Image.Reference == "" {
		errs = append(errs, field.Required(at.Child("image", "reference"), ""))
	}
	if n == 0 && isEmptySource(s) {
		errs = append(errs, field.Required(at, "must specify a volume type"))
	}
	return errs
}

func isEmptySource(s *corev1.VolumeSource) bool { return *s == corev1.VolumeSource{} }

const fileModeInvalid = "must be a number between 0 and 0777 (octal), both inclusive"

func validateMode(mode *int32, at *field.Path) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		return field.ErrorList{field.Invalid(at, *mode, fileModeInvalid)}
	}
	return nil
}

func validateKeysToPaths(items []corev1.KeyToPath, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, item := range items {
		at := path.Index(i)
		if item.Key == "" {
			errs = append(errs, field.Required(at.Child("key"), ""))
		}
		errs = append(errs, validatePathInVolume(item.Path, at.Child("path"))...)
		errs = append(errs, validateMode(item.Mode, at.Child("mode"))...)
	}
	return errs
}

func validatePathInVolume(p string, at *field.Path) field.ErrorList {
	if p == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := validateLocalPath(p, at)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		errs = append(errs, field.Invalid(at, p, "must not start with '..'"))
	}
	return errs
}

func validateDownwardItems(items []corev1.DownwardAPIVolumeFile, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	known := []string{"metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid"}
	for _, item := range items {
		errs = append(errs, validatePathInVolume(item.Path, path.Child("path"))...)
		switch {
		case item.FieldRef != nil && item.ResourceFieldRef != nil:
			errs = append(errs, field.Invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		case item.FieldRef != nil:
			errs = append(errs, validateFieldRef(item.FieldRef, known, path.Child("fieldRef"))...)
		case item.ResourceFieldRef != nil:
			if item.ResourceFieldRef.ContainerName == "" {
				errs = append(errs, field.Required(path.Child("resourceFieldRef", "containerName"), ""))
			}
		default:
			errs = append(errs, field.Required(path, "one of fieldRef and resourceFieldRef is required"))
		}
		errs = append(errs, validateMode(item.Mode, path.Child("mode"))...)
	}
	return errs
}

func validateProjected(s *corev1.ProjectedVolumeSource, at *field.Path) field.ErrorList {
	errs := validateMode(s.DefaultMode, at.Child("defaultMode"))
	paths := map[string]bool{}
	unique := func(p string, at *field.Path) {
		if p != "" && paths[p] {
			errs = append(errs, field.Invalid(at, p, "conflicting duplicate paths"))
		}
		paths[p] = true
	}
	for i, src := range s.Sources {
		to := at.Child("sources").Index(i)
		n := 0
		if src.Secret != nil {
			n++
			if src.Secret.Name == "" {
				errs = append(errs, field.Required(to.Child("secret", "name"), ""))
			}
			errs = append(errs, validateKeysToPaths(src.Secret.Items, to.Child("secret", "items"))...)
			for _, item := range src.Secret.Items {
				unique(item.Path, at)
			}
		}
		if src.ConfigMap != nil {
			n++
			if src.ConfigMap.Name == "" {
				errs = append(errs, field.Required(to.Child("configMap", "name"), ""))
			}
			errs = append(errs, validateKeysToPaths(src.ConfigMap.Items, to.Child("configMap", "items"))...)
			for _, item := range src.ConfigMap.Items {
				unique(item.Path, at)
			}
		}
		if src.DownwardAPI != nil {
			n++
			errs = append(errs, validateDownwardItems(src.DownwardAPI.Items, to.Child("downwardAPI"))...)
		}
		if t := src.ServiceAccountToken; t != nil {
			n++
			if t.ExpirationSeconds != nil && *t.ExpirationSeconds < 10*60 {
				errs = append(errs, field.Invalid(to.Child("serviceAccountToken", "expirationSeconds"), *t.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
			}
			errs = append(errs, validatePathInVolume(t.Path, to.Child("serviceAccountToken", "path"))...)
		}
		if src.ClusterTrustBundle != nil || src.PodCertificate != nil {
			n++
		}
		if n > 1 {
			errs = append(errs, field.Forbidden(to, "may not specify more than 1 volume type"))
		}
	}
	return errs
}
