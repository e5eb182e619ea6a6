package core

import (
	"context"
	"path"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func persistentVolumes() kind.Definition {
	doc := corev1.PersistentVolumeSpec{}.SwaggerDoc()
	return &kind.Kind[*corev1.PersistentVolume]{
		Resource: "persistentvolumes", Singular: "persistentvolume", ShortNames: []string{"pv"},
		Cluster:        true,
		New:            func() *corev1.PersistentVolume { return &corev1.PersistentVolume{} },
		NewList:        func() runtime.Object { return &corev1.PersistentVolumeList{} },
		ReturnDeleted:  true,
		Default:        defaultPersistentVolume,
		Prepare:        preparePersistentVolume,
		Validate:       validatePersistentVolume,
		ValidateUpdate: validatePersistentVolumeUpdate,
		Warn:           warnVolume,
		Status: &kind.Status[*corev1.PersistentVolume]{
			Prepare: func(v, old *corev1.PersistentVolume) {
				if v.Status.Phase != old.Status.Phase && v.Status.LastPhaseTransitionTime.Equal(old.Status.LastPhaseTransitionTime) {
					now := metav1.Now()
					v.Status.LastPhaseTransitionTime = &now
				}
			},
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Capacity", doc["capacity"]),
			kind.Column("Access Modes", doc["accessModes"]),
			kind.Column("Reclaim Policy", doc["persistentVolumeReclaimPolicy"]),
			kind.Column("Status", corev1.PersistentVolumeStatus{}.SwaggerDoc()["phase"]),
			kind.Column("Claim", doc["claimRef"]),
			kind.Column("StorageClass", "StorageClass of the pv"),
			kind.Column("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
			kind.Column("Reason", corev1.PersistentVolumeStatus{}.SwaggerDoc()["reason"]),
			kind.AgeColumn,
			kind.Wide("VolumeMode", doc["volumeMode"]),
		},
		Cells: func(v *corev1.PersistentVolume) []any {
			claim := ""
			if v.Spec.ClaimRef != nil {
				claim = v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name
			}
			phase := string(v.Status.Phase)
			if v.DeletionTimestamp != nil {
				phase = "Terminating"
			}
			q := v.Spec.Capacity[corev1.ResourceStorage]
			return []any{
				v.Name, q.String(), modesOf(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim,
				claimClass(v.Annotations, v.Spec.StorageClassName), kind.Or(v.Spec.VolumeAttributesClassName, "<unset>"),
				v.Status.Reason, kind.Age(v.CreationTimestamp), string(kind.Or(v.Spec.VolumeMode, "<unset>")),
			}
		},
	}
}

func defaultPersistentVolume(v *corev1.PersistentVolume) {
	orDefault(&v.Status.Phase, corev1.VolumePending)
	orDefault(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	orPtr(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundResources(v.Spec.Capacity)
	if h := v.Spec.HostPath; h != nil {
		orPtr(&h.Type, corev1.HostPathUnset)
	}
	if s := v.Spec.ISCSI; s != nil {
		orDefault(&s.ISCSIInterface, "default")
	}
}

func preparePersistentVolume(_ context.Context, v, old *corev1.PersistentVolume) {
	if old == nil {
		now := metav1.Now()
		v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: &now}
	}
}

func validatePersistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	at, s := field.NewPath("spec"), &v.Spec
	var errs field.ErrorList
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), ""))
	}
	errs = append(errs, validateAccessModes(s.AccessModes, at.Child("accessModes"))...)
	capacity := at.Child("capacity")
	if len(s.Capacity) == 0 {
		errs = append(errs, field.Required(capacity, ""))
	}
	if _, ok := s.Capacity[corev1.ResourceStorage]; !ok || len(s.Capacity) > 1 {
		errs = append(errs, field.NotSupported(capacity, s.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for name, q := range s.Capacity {
		errs = append(errs, positive(q, capacity.Key(string(name)))...)
	}
	if p := s.PersistentVolumeReclaimPolicy; p != "" {
		errs = append(errs, kind.Supported(p, at.Child("persistentVolumeReclaimPolicy"),
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	}
	errs = append(errs, validateVolumeAffinity(s.NodeAffinity, at.Child("nodeAffinity"))...)
	errs = append(errs, validatePersistentSource(v, at)...)
	if n := s.StorageClassName; n != "" {
		errs = append(errs, invalidFor(at.Child("storageClassName"), n, validation.NameIsDNSSubdomain(n, false))...)
	}
	if s.VolumeMode != nil {
		errs = append(errs, kind.Supported(*s.VolumeMode, at.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	return errs
}

func validateVolumeAffinity(a *corev1.VolumeNodeAffinity, at *field.Path) field.ErrorList {
	if a == nil {
		return nil
	}
	if a.Required == nil {
		return field.ErrorList{field.Required(at.Child("required"), "must specify required node constraints")}
	}
	return validateNodeSelector(a.Required, at.Child("required"))
}

// validatePersistentSource wants exactly one source, and checks those that this
// project's nodes mount.
func validatePersistentSource(v *corev1.PersistentVolume, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	sources := reflect.ValueOf(v.Spec.PersistentVolumeSource)
	n := 0
	for i := range sources.NumField() {
		if sources.Field(i).IsNil() {
			continue
		}
		if n++; n > 1 {
			name := sources.Type().Field(i).Name
			errs = append(errs, field.Forbidden(at.Child(sourceNames[name]), "may not specify more than 1 volume type"))
		}
	}
	if n == 0 {
		return field.ErrorList{field.Required(at, "must specify a volume type")}
	}
	if h := v.Spec.HostPath; h != nil {
		to := at.Child("hostPath")
		if h.Path == "" {
			errs = append(errs, field.Required(to.Child("path"), ""))
		} else {
			errs = append(errs, noBacksteps(h.Path, to.Child("path"))...)
		}
		if path.Clean(h.Path) == "/" && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
			errs = append(errs, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
		}
	}
	if l := v.Spec.Local; l != nil {
		to := at.Child("local")
		if l.Path == "" {
			errs = append(errs, field.Required(to.Child("path"), ""))
		} else {
			errs = append(errs, noBacksteps(l.Path, to.Child("path"))...)
		}
		if v.Spec.NodeAffinity == nil {
			errs = append(errs, field.Required(field.NewPath("spec", "nodeAffinity"), "Local volume requires node affinity"))
		}
	}
	if c := v.Spec.CSI; c != nil {
		if c.Driver == "" {
			errs = append(errs, field.Required(at.Child("csi", "driver"), ""))
		}
		if c.VolumeHandle == "" {
			errs = append(errs, field.Required(at.Child("csi", "volumeHandle"), ""))
		}
	}
	return errs
}

// sourceNames are the names in JSON of the sources of persistent volumes.
var sourceNames = func() map[string]string {
	out := map[string]string{}
	t := reflect.TypeFor[corev1.PersistentVolumeSource]()
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		for j, r := range tag {
			if r == ',' {
				tag = tag[:j]
				break
			}
		}
		out[f.Name] = tag
	}
	return out
}()

func validatePersistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	errs := validatePersistentVolume(v)
	if !apiequality.Semantic.DeepEqual(v.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "persistentvolumesource"),
			"spec.persistentvolumesource is immutable after creation\n"+diff.Diff(old.Spec.PersistentVolumeSource, v.Spec.PersistentVolumeSource)))
	}
	errs = append(errs, validation.ValidateImmutableField(v.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Spec.NodeAffinity != nil {
		errs = append(errs, validation.ValidateImmutableField(v.Spec.NodeAffinity, old.Spec.NodeAffinity, field.NewPath("nodeAffinity"))...)
	}
	return errs
}
