package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	// envFields are what fieldRef in the environment may name, volumeFields what a
	// downward API volume may.
	envFields = []string{"metadata.name", "metadata.namespace", "metadata.uid",
		"spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	volumeFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	// knownFields are all fields that have a name here at all.
	knownFields = sets.New(append(slices.Clone(volumeFields), envFields...)...).Insert("spec.restartPolicy", "spec.schedulerName", "status.phase")

	resourceFields = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}
)

func validateEnv(env []corev1.EnvVar, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, e := range env {
		at := path.Index(i)
		if e.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, invalidFor(at.Child("name"), e.Name, utilvalidation.IsRelaxedEnvVarName(e.Name))...)
		}
		errs = append(errs, validateEnvSource(e, at.Child("valueFrom"))...)
	}
	return errs
}

func validateEnvSource(e corev1.EnvVar, at *field.Path) field.ErrorList {
	from := e.ValueFrom
	if from == nil {
		return nil
	}
	var errs field.ErrorList
	n := 0
	if f := from.FieldRef; f != nil {
		n++
		errs = append(errs, validateFieldRef(f, envFields, at.Child("fieldRef"))...)
	}
	if r := from.ResourceFieldRef; r != nil {
		n++
		errs = append(errs, validateResourceRef(r, false, at.Child("resourceFieldRef"))...)
	}
	if r := from.ConfigMapKeyRef; r != nil {
		n++
		errs = append(errs, validateKeyRef(r.Name, r.Key, at.Child("configMapKeyRef"))...)
	}
	if r := from.SecretKeyRef; r != nil {
		n++
		errs = append(errs, validateKeyRef(r.Name, r.Key, at.Child("secretKeyRef"))...)
	}
	if r := from.FileKeyRef; r != nil {
		n++
		errs = append(errs, validateFileRef(r, at.Child("fileKeyRef"))...)
	}
	switch {
	case n == 0:
		errs = append(errs, field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case e.Value != "":
		errs = append(errs, field.Invalid(at, "", "may not be specified when `value` is not empty"))
	case n > 1:
		errs = append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func validateKeyRef(name, key string, at *field.Path) field.ErrorList {
	errs := invalidFor(at.Child("name"), name, validation.NameIsDNSSubdomain(name, false))
	if key == "" {
		return append(errs, field.Required(at.Child("key"), ""))
	}
	return append(errs, invalidFor(at.Child("key"), key, utilvalidation.IsConfigMapKey(key))...)
}

func validateFileRef(r *corev1.FileKeySelector, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Key == "" {
		errs = append(errs, field.Required(at.Child("key"), ""))
	} else {
		errs = append(errs, invalidFor(at.Child("key"), r.Key, utilvalidation.IsRelaxedEnvVarName(r.Key))...)
	}
	if r.VolumeName == "" {
		errs = append(errs, field.Required(at.Child("volumeName"), ""))
	} else {
		errs = append(errs, validateDNS1123Label(r.VolumeName, at.Child("volumeName"))...)
	}
	if r.Path == "" {
		return append(errs, field.Required(at.Child("path"), ""))
	}
	return append(errs, noBacksteps(r.Path, at.Child("path"))...)
}

// validateFileKeyVolumes wants files of the environment to lie in an emptyDir.
func validateFileKeyVolumes(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	eachContainer(s, path, func(c *corev1.Container, at *field.Path) {
		for i, e := range c.Env {
			if e.ValueFrom == nil || e.ValueFrom.FileKeyRef == nil {
				continue
			}
			name := e.ValueFrom.FileKeyRef.VolumeName
			to := at.Child("env").Index(i).Child("valueFrom", "fileKeyRef", "volumeName")
			v := slices.IndexFunc(s.Volumes, func(v corev1.Volume) bool { return v.Name == name })
			if v < 0 {
				errs = append(errs, field.NotFound(to, name))
			} else if s.Volumes[v].EmptyDir == nil {
				errs = append(errs, field.Invalid(to, name, "referenced volume must be of type emptyDir"))
			}
		}
	})
	return errs
}

func validateFieldRef(f *corev1.ObjectFieldSelector, known []string, at *field.Path) field.ErrorList {
	if f.APIVersion == "" {
		return field.ErrorList{field.Required(at.Child("apiVersion"), "")}
	}
	to := at.Child("fieldPath")
	if f.FieldPath == "" {
		return field.ErrorList{field.Required(to, "")}
	}
	base, key, subscripted := subscript(f.FieldPath)
	wrong := ""
	switch {
	case f.APIVersion != "v1":
		wrong = fmt.Sprintf("unsupported pod version: %s", f.APIVersion)
	case subscripted && base != "metadata.annotations" && base != "metadata.labels":
		wrong = fmt.Sprintf("field label does not support subscript: %s", f.FieldPath)
	case !subscripted && !knownFields.Has(f.FieldPath) && f.FieldPath != "spec.host":
		wrong = fmt.Sprintf("field label not supported: %s", f.FieldPath)
	}
	switch {
	case wrong != "":
		return field.ErrorList{field.Invalid(to, f.FieldPath, "error converting fieldPath: "+wrong)}
	case base == "metadata.annotations" && subscripted:
		return invalidFor(at, strings.ToLower(key), utilvalidation.IsQualifiedName(strings.ToLower(key)))
	case subscripted:
		return invalidFor(at, key, utilvalidation.IsQualifiedName(key))
	case f.FieldPath == "spec.host": // an old name of spec.nodeName
		base = "spec.nodeName"
	}
	return supported(base, to, known...)
}

// subscript splits metadata.labels['key'].
func subscript(p string) (base, key string, ok bool) {
	if !strings.HasSuffix(p, "']") {
		return p, "", false
	}
	base, key, ok = strings.Cut(strings.TrimSuffix(p, "']"), "['")
	if !ok || base == "" {
		return p, "", false
	}
	return base, key, true
}

// validateResourceRef checks a reference to what a container asks for. A volume's
// says whose.
func validateResourceRef(r *corev1.ResourceFieldSelector, volume bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	pages := strings.HasPrefix(r.Resource, "requests.hugepages-") || strings.HasPrefix(r.Resource, "limits.hugepages-")
	switch {
	case volume && r.ContainerName == "":
		errs = append(errs, field.Required(at.Child("containerName"), ""))
	case r.Resource == "":
		errs = append(errs, field.Required(at.Child("resource"), ""))
	case !pages:
		errs = append(errs, supported(r.Resource, at.Child("resource"), resourceFields...)...)
	}
	const sizes = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"
	var allowed, what string
	switch _, name, _ := strings.Cut(r.Resource, "."); {
	case name == "cpu":
		allowed, what = "1m and 1", "cpu"
	case name == "memory":
		allowed, what = sizes, "memory"
	case name == "ephemeral-storage":
		allowed, what = sizes, "local ephemeral storage"
	case pages:
		allowed, what = sizes, "hugepages"
	}
	divisor := r.Divisor.String()
	if r.Divisor.Cmp(resource.Quantity{}) == 0 || what == "" || slices.Contains(strings.Split(strings.ReplaceAll(allowed, " and ", ", "), ", "), divisor) {
		return errs
	}
	return append(errs, field.Invalid(at.Child("divisor"), r.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", allowed, what)))
}

func validateEnvFrom(sources []corev1.EnvFromSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, s := range sources {
		at := path.Index(i)
		if s.Prefix != "" {
			errs = append(errs, invalidFor(at.Child("prefix"), s.Prefix, utilvalidation.IsRelaxedEnvVarName(s.Prefix))...)
		}
		n := 0
		source := func(name string, at *field.Path) {
			n++
			if name == "" {
				errs = append(errs, field.Required(at, ""))
			} else {
				errs = append(errs, invalidFor(at, name, validation.NameIsDNSSubdomain(name, true))...)
			}
		}
		if s.ConfigMapRef != nil {
			source(s.ConfigMapRef.Name, at.Child("configMapRef", "name"))
		}
		if s.SecretRef != nil {
			source(s.SecretRef.Name, at.Child("secretRef", "name"))
		}
		switch {
		case n == 0:
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		case n > 1:
			errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}
