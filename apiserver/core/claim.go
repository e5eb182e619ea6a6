package core

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// accessModes are upstream's, in the order of its messages.
var accessModes = []corev1.PersistentVolumeAccessMode{
	corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod,
}

func persistentVolumeClaims() kind.Definition {
	doc := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc()
	return &kind.Kind[*corev1.PersistentVolumeClaim]{
		Resource: "persistentvolumeclaims", Singular: "persistentvolumeclaim", ShortNames: []string{"pvc"},
		New:           func() *corev1.PersistentVolumeClaim { return &corev1.PersistentVolumeClaim{} },
		NewList:       func() runtime.Object { return &corev1.PersistentVolumeClaimList{} },
		ReturnDeleted: true,
		Default:       DefaultPersistentVolumeClaim,
		Prepare:       preparePersistentVolumeClaim,
		Validate: func(c *corev1.PersistentVolumeClaim) field.ErrorList {
			return validateClaimSpec(&c.Spec, field.NewPath("spec"))
		},
		ValidateUpdate: validateClaimUpdate,
		Warn:           warnClaim,
		Status:         &kind.Status[*corev1.PersistentVolumeClaim]{Validate: validateClaimStatus},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Status", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["phase"]),
			kind.Column("Volume", doc["volumeName"]),
			kind.Column("Capacity", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["capacity"]),
			kind.Column("Access Modes", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["accessModes"]),
			kind.Column("StorageClass", "StorageClass of the pvc"),
			kind.Column("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
			kind.AgeColumn,
			kind.Wide("VolumeMode", doc["volumeMode"]),
		},
		Cells: claimCells,
	}
}

func claimCells(c *corev1.PersistentVolumeClaim) []any {
	phase := string(c.Status.Phase)
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	capacity, modes := "", ""
	if c.Spec.VolumeName != "" {
		q := c.Status.Capacity[corev1.ResourceStorage]
		capacity, modes = q.String(), modesOf(c.Status.AccessModes)
	}
	return []any{
		c.Name, phase, c.Spec.VolumeName, capacity, modes, claimClass(c.Annotations, kind.Or(c.Spec.StorageClassName, "")),
		kind.Or(c.Spec.VolumeAttributesClassName, "<unset>"), kind.Age(c.CreationTimestamp), string(kind.Or(c.Spec.VolumeMode, "<unset>")),
	}
}

// claimClass prefers the annotation that named classes before there was a field.
func claimClass(annotations map[string]string, class string) string {
	if c, ok := annotations[corev1.BetaStorageClassAnnotation]; ok {
		return c
	}
	return class
}

// modesOf writes access modes as kubectl abbreviates them.
func modesOf(modes []corev1.PersistentVolumeAccessMode) string {
	has := map[corev1.PersistentVolumeAccessMode]bool{}
	for _, m := range modes {
		has[m] = true
	}
	var out []string
	for _, m := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if has[m.mode] {
			out = append(out, m.short)
		}
	}
	return strings.Join(out, ",")
}

// DefaultPersistentVolumeClaim fills in the defaults of a claim, also of one
// that is a template in a workload.
func DefaultPersistentVolumeClaim(c *corev1.PersistentVolumeClaim) {
	orDefault(&c.Status.Phase, corev1.ClaimPending)
	orPtr(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundResources(c.Spec.Resources.Limits)
	roundResources(c.Spec.Resources.Requests)
	roundResources(c.Status.Capacity)
}

func preparePersistentVolumeClaim(_ context.Context, c, old *corev1.PersistentVolumeClaim) {
	if old == nil {
		c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
	}
	// The two ways to name a source are kept equal where both can.
	s := &c.Spec
	switch {
	case s.DataSource != nil && s.DataSourceRef == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: s.DataSource.APIGroup, Kind: s.DataSource.Kind, Name: s.DataSource.Name}
	case s.DataSource == nil && s.DataSourceRef != nil && kind.Or(s.DataSourceRef.Namespace, "") == "":
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: s.DataSourceRef.APIGroup, Kind: s.DataSourceRef.Kind, Name: s.DataSourceRef.Name}
	}
}

func validateClaimSpec(s *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), "at least 1 access mode is required"))
	}
	if s.Selector != nil {
		errs = append(errs, unversioned.ValidateLabelSelector(s.Selector, unversioned.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	}
	errs = append(errs, validateAccessModes(s.AccessModes, at.Child("accessModes"))...)
	to := at.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		errs = append(errs, field.Required(to, ""))
	} else {
		errs = append(errs, positive(q, to)...)
	}
	if n := kind.Or(s.StorageClassName, ""); n != "" {
		errs = append(errs, invalidFor(at.Child("storageClassName"), n, validation.NameIsDNSSubdomain(n, false))...)
	}
	if s.VolumeMode != nil {
		errs = append(errs, kind.Supported(*s.VolumeMode, at.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	errs = append(errs, validateDataSource(s, at)...)
	if n := kind.Or(s.VolumeAttributesClassName, ""); n != "" {
		errs = append(errs, invalidFor(at.Child("volumeAttributesClassName"), n, validation.NameIsDNSSubdomain(n, false))...)
	}
	return errs
}

// ValidateClaimTemplate checks a claim that a workload will make.
func ValidateClaimTemplate(c *corev1.PersistentVolumeClaim, at *field.Path) field.ErrorList {
	return validateClaimSpec(&c.Spec, at.Child("spec"))
}

func validateDataSource(s *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := func(to *field.Path, group *string, kind, name string) {
		if name == "" {
			errs = append(errs, field.Required(to.Child("name"), ""))
		}
		if kind == "" {
			errs = append(errs, field.Required(to.Child("kind"), ""))
		}
		if (group == nil || *group == "") && kind != "PersistentVolumeClaim" {
			errs = append(errs, field.Invalid(to, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
		}
	}
	if d := s.DataSource; d != nil {
		check(at.Child("dataSource"), d.APIGroup, d.Kind, d.Name)
	}
	d := s.DataSourceRef
	if d == nil {
		return errs
	}
	check(at.Child("dataSourceRef"), d.APIGroup, d.Kind, d.Name)
	if kind.Or(d.Namespace, "") != "" {
		if s.DataSource != nil {
			errs = append(errs, field.Invalid(at, at.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified"))
		}
		return errs
	}
	if s.DataSource != nil && (s.DataSource.Kind != d.Kind || s.DataSource.Name != d.Name || kind.Or(s.DataSource.APIGroup, "") != kind.Or(d.APIGroup, "")) {
		errs = append(errs, field.Invalid(at, at.Child("dataSource"), "must match dataSourceRef"))
	}
	return errs
}

func validateAccessModes(modes []corev1.PersistentVolumeAccessMode, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	alone := false
	for _, m := range modes {
		errs = append(errs, kind.Supported(m, at, accessModes...)...)
		alone = alone || m == corev1.ReadWriteOncePod
	}
	if alone && len(modes) > 1 {
		errs = append(errs, field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

func positive(q resource.Quantity, at *field.Path) field.ErrorList {
	if q.Sign() <= 0 {
		return field.ErrorList{field.Invalid(at, q.String(), "must be greater than zero")}
	}
	return nil
}

func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := validateClaimSpec(&c.Spec, field.NewPath("spec"))
	at := field.NewPath("spec")
	now, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" { // the binder sets it, once
		was.VolumeName = now.VolumeName
	}
	if was.StorageClassName == nil { // a default class may be chosen later
		was.StorageClassName = now.StorageClassName
	}
	bound := old.Status.Phase == corev1.ClaimBound
	if bound && now.Resources.Requests != nil {
		now.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
	}
	if bound {
		now.VolumeAttributesClassName = was.VolumeAttributesClassName
	}
	if !apiequality.Semantic.DeepEqual(now, was) {
		errs = append(errs, field.Forbidden(at, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+diff.Diff(was, now)))
	}
	size, before, real := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage], old.Status.Capacity[corev1.ResourceStorage]
	if size.Cmp(before) < 0 && size.Cmp(real) <= 0 {
		errs = append(errs, field.Forbidden(at.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, validation.ValidateImmutableField(c.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if had := kind.Or(old.Spec.VolumeAttributesClassName, ""); had != "" && kind.Or(c.Spec.VolumeAttributesClassName, "") == "" {
		errs = append(errs, field.Forbidden(at.Child("volumeAttributesClassName"), fmt.Sprintf("update from non-nil value (%s) to nil is forbidden", had)))
	}
	return errs
}

func validateClaimStatus(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	at := field.NewPath("status")
	var errs field.ErrorList
	for name, q := range c.Status.Capacity {
		to := at.Child("capacity").Key(string(name))
		if q.Sign() < 0 {
			errs = append(errs, field.Invalid(to, q.String(), validation.IsNegativeErrorMsg))
		}
	}
	return errs
}
