package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateVolumes checks the volumes of a pod and returns those that are valid, by
// name. meta is the pod's and nil for a template.
func validateVolumes(volumes []corev1.Volume, meta *metav1.ObjectMeta, path *field.Path) (map[string]corev1.VolumeSource, field.ErrorList) {
	var errs field.ErrorList
	known := map[string]corev1.VolumeSource{}
	for i, v := range volumes {
		at := path.Index(i)
		bad := validateVolumeSource(&v.VolumeSource, at)
		if meta != nil && meta.Name != "" && v.Name != "" && v.Ephemeral != nil {
			claim := meta.Name + "-" + v.Name
			for _, m := range validation.NameIsDNSSubdomain(claim, false) {
				bad = append(bad, field.Invalid(at.Child("name"), v.Name, fmt.Sprintf("PVC name %q: %v", claim, m)))
			}
		}
		bad = append(bad, validateVolumeName(v.Name, at.Child("name"))...)
		if _, ok := known[v.Name]; ok {
			bad = append(bad, field.Duplicate(at.Child("name"), v.Name))
		}
		if len(bad) == 0 {
			known[v.Name] = v.VolumeSource
		}
		errs = append(errs, bad...)
		if c := v.PersistentVolumeClaim; c != nil && meta != nil && meta.Name != "" && slices.ContainsFunc(volumes, func(o corev1.Volume) bool {
			return o.Ephemeral != nil && meta.Name+"-"+o.Name == c.ClaimName
		}) {
			errs = append(errs, field.Invalid(at.Child("persistentVolumeClaim", "claimName"), c.ClaimName, "must not reference a PVC that gets created for an ephemeral volume"))
		}
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
	if s.EmptyDir != nil && one("emptyDir") {
		if s.EmptyDir.SizeLimit != nil && s.EmptyDir.SizeLimit.Sign() < 0 {
			errs = append(errs, field.Forbidden(at.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity"))
		}
		if m := s.EmptyDir.Mode; m != nil && (*m < 0 || *m > 0o1777) {
			errs = append(errs, field.Invalid(at.Child("emptyDir", "mode"), *m, "must be a number between 0 and 01777 (octal), both inclusive"))
		}
	}
	if s.HostPath != nil && one("hostPath") {
		to := at.Child("hostPath")
		if s.HostPath.Path == "" {
			errs = append(errs, field.Required(to.Child("path"), ""))
		} else {
			errs = append(errs, noBacksteps(s.HostPath.Path, to.Child("path"))...)
		}
		if t := s.HostPath.Type; t != nil && s.HostPath.Path != "" {
			errs = append(errs, supported(*t, to.Child("type"), corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
				corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
		}
	}
	if s.Secret != nil && one("secret") {
		to := at.Child("secret")
		if s.Secret.SecretName == "" {
			errs = append(errs, field.Required(to.Child("secretName"), ""))
		}
		errs = append(errs, validateMode(s.Secret.DefaultMode, to.Child("defaultMode"))...)
		errs = append(errs, validateUser(s.Secret.DefaultUser, to.Child("defaultUser"))...)
		errs = append(errs, validateKeysToPaths(s.Secret.Items, to.Child("items"))...)
	}
	if s.ConfigMap != nil && one("configMap") {
		to := at.Child("configMap")
		if s.ConfigMap.Name == "" {
			errs = append(errs, field.Required(to.Child("name"), ""))
		}
		errs = append(errs, validateMode(s.ConfigMap.DefaultMode, to.Child("defaultMode"))...)
		errs = append(errs, validateUser(s.ConfigMap.DefaultUser, to.Child("defaultUser"))...)
		errs = append(errs, validateKeysToPaths(s.ConfigMap.Items, to.Child("items"))...)
	}
	if s.DownwardAPI != nil && one("downwardAPI") {
		errs = append(errs, validateMode(s.DownwardAPI.DefaultMode, at.Child("downwardAPI", "defaultMode"))...)
		errs = append(errs, validateUser(s.DownwardAPI.DefaultUser, at.Child("downwardAPI", "defaultUser"))...)
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
		}
		if !strings.HasPrefix(s.NFS.Path, "/") {
			errs = append(errs, field.Invalid(at.Child("nfs", "path"), s.NFS.Path, "must be an absolute path"))
		}
	}
	if s.CSI != nil && one("csi") {
		errs = append(errs, validateInlineCSI(s.CSI, at.Child("csi"))...)
	}
	if s.Ephemeral != nil && one("ephemeral") {
		to := at.Child("ephemeral", "volumeClaimTemplate")
		if t := s.Ephemeral.VolumeClaimTemplate; t == nil {
			errs = append(errs, field.Required(to, ""))
		} else {
			errs = append(errs, validateTemplateMeta(&t.ObjectMeta, to)...)
			errs = append(errs, validateClaimSpec(&t.Spec, to.Child("spec"))...)
		}
	}
	if s.Image != nil && one("image") {
		if s.Image.Reference == "" {
			errs = append(errs, field.Required(at.Child("image", "reference"), ""))
		}
		errs = append(errs, validatePullPolicy(s.Image.PullPolicy, at.Child("image", "pullPolicy"))...)
	}
	if n == 0 && isEmptySource(s) {
		errs = append(errs, field.Required(at, "must specify a volume type"))
	}
	return errs
}

func isEmptySource(s *corev1.VolumeSource) bool { return *s == corev1.VolumeSource{} }

func validateInlineCSI(s *corev1.CSIVolumeSource, at *field.Path) field.ErrorList {
	errs := validateDriverName(s.Driver, at.Child("driver"))
	if ref := s.NodePublishSecretRef; ref != nil {
		if ref.Name == "" {
			errs = append(errs, field.Required(at.Child("nodePublishSecretRef", "name"), ""))
		} else {
			errs = append(errs, invalidFor(at.Child("name"), ref.Name, validation.NameIsDNSSubdomain(ref.Name, false))...)
		}
	}
	return errs
}

func validateDriverName(name string, at *field.Path) field.ErrorList {
	const longest = 63
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(name) > longest {
		errs = append(errs, field.TooLong(at, "" /*unused*/, longest))
	}
	return append(errs, invalidFor(at, name, utilvalidation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}

// validateTemplateMeta lets a template give labels and annotations, and no more.
func validateTemplateMeta(m *metav1.ObjectMeta, at *field.Path) field.ErrorList {
	to := at.Child("metadata")
	errs := validation.ValidateAnnotations(m.Annotations, to.Child("annotations"))
	errs = append(errs, unversioned.ValidateLabels(m.Labels, to.Child("labels"))...)
	return append(errs, onlyFields(*m, sets.New("Annotations", "Labels"), "cannot be set", to)...)
}

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
		errs = append(errs, validateUser(item.User, at.Child("user"))...)
	}
	return errs
}

// validatePathInVolume wants the path of a file below the volume's root, not among
// the names that atomic updates use.
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
	for _, item := range items {
		errs = append(errs, validatePathInVolume(item.Path, path.Child("path"))...)
		switch {
		case item.FieldRef != nil:
			errs = append(errs, validateFieldRef(item.FieldRef, volumeFields, path.Child("fieldRef"))...)
			if item.ResourceFieldRef != nil {
				errs = append(errs, field.Invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
			}
		case item.ResourceFieldRef != nil:
			errs = append(errs, validateResourceRef(item.ResourceFieldRef, true, path.Child("resourceFieldRef"))...)
		default:
			errs = append(errs, field.Required(path, "one of fieldRef and resourceFieldRef is required"))
		}
		errs = append(errs, validateMode(item.Mode, path.Child("mode"))...)
		errs = append(errs, validateUser(item.User, path.Child("user"))...)
	}
	return errs
}
