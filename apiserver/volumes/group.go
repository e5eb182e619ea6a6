// Package volumes is the API group storage.k8s.io: where volumes come from.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package volumes

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// Group describes the group.
func Group() kind.Group {
	return kind.Group{
		Name:        storagev1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: storagev1.AddToScheme,
		Kinds: map[string][]kind.Definition{"v1": {
			storageClasses(), volumeAttachments(), csiDrivers(), csiNodes(), csiStorageCapacities(), volumeAttributesClasses(),
		}},
	}
}

// DefaultClassAnnotation marks the class of claims that name none.
const DefaultClassAnnotation = "storageclass.kubernetes.io/is-default-class"

func storageClasses() kind.Definition {
	doc := storagev1.StorageClass{}.SwaggerDoc()
	return &kind.Kind[*storagev1.StorageClass]{
		Resource: "storageclasses", Singular: "storageclass", ShortNames: []string{"sc"},
		Cluster:       true,
		New:           func() *storagev1.StorageClass { return &storagev1.StorageClass{} },
		NewList:       func() runtime.Object { return &storagev1.StorageClassList{} },
		ReturnDeleted: true,
		Default: func(c *storagev1.StorageClass) {
			kind.SetDefaultPtr(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
			kind.SetDefaultPtr(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
		},
		Validate:       validateClass,
		ValidateUpdate: validateClassUpdate,
		Warn:           warnClass,
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Provisioner", doc["provisioner"]),
			kind.Column("ReclaimPolicy", doc["reclaimPolicy"]),
			kind.Column("VolumeBindingMode", doc["volumeBindingMode"]),
			kind.Column("AllowVolumeExpansion", doc["allowVolumeExpansion"]),
			kind.AgeColumn,
		},
		Cells: func(c *storagev1.StorageClass) []any {
			name := c.Name
			if c.Annotations[DefaultClassAnnotation] == "true" {
				name += " (default)"
			}
			return []any{
				name, c.Provisioner, string(kind.Or(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)),
				string(kind.Or(c.VolumeBindingMode, storagev1.VolumeBindingImmediate)), kind.Or(c.AllowVolumeExpansion, false), kind.Age(c.CreationTimestamp),
			}
		},
	}
}

func validateClass(c *storagev1.StorageClass) field.ErrorList {
	errs := validateProvisioner(c.Provisioner, field.NewPath("provisioner"))
	errs = append(errs, validateParameters(c.Parameters, field.NewPath("parameters"))...)
	if p := kind.Or(c.ReclaimPolicy, ""); p != "" {
		errs = append(errs, kind.Supported(p, field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	at := field.NewPath("volumeBindingMode")
	if c.VolumeBindingMode == nil {
		return append(errs, field.Required(at, ""))
	}
	errs = append(errs, kind.Supported(*c.VolumeBindingMode, at, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	return append(errs, validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

func validateTopologies(terms []corev1.TopologySelectorTerm, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, term := range terms {
		seen := map[string]bool{}
		for j, r := range term.MatchLabelExpressions {
			to := at.Index(i).Child("matchLabelExpressions").Index(j)
			if len(r.Values) == 0 {
				errs = append(errs, field.Required(to.Child("values"), ""))
			}
			for k, v := range r.Values {
				if slices.Contains(r.Values[:k], v) {
					errs = append(errs, field.Duplicate(to.Child("values").Index(k), v))
				}
			}
			errs = append(errs, unversioned.ValidateLabelName(r.Key, to.Child("key"))...)
			if seen[r.Key] {
				errs = append(errs, field.Duplicate(to.Child("key"), r.Key))
			}
			seen[r.Key] = true
		}
	}
	return errs
}

func validateProvisioner(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return kind.Invalid(at, name, utilvalidation.IsQualifiedName(strings.ToLower(name)))
}

func validateParameters(parameters map[string]string, at *field.Path) field.ErrorList {
	const maxCount, maxSize = 512, 256 << 10
	if len(parameters) > maxCount {
		return field.ErrorList{field.TooLong(at, "Provisioner Parameters exceeded max allowed", maxCount)}
	}
	var errs field.ErrorList
	size := 0
	for k, v := range parameters {
		if k == "" {
			errs = append(errs, field.Invalid(at, k, "field can not be empty."))
		}
		size += len(k) + len(v)
	}
	if size > maxSize {
		errs = append(errs, field.TooLong(at, "", maxSize))
	}
	return errs
}

func validateClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	var errs field.ErrorList
	if !apiequality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
		errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
	}
	if c.Provisioner != old.Provisioner {
		errs = append(errs, field.Forbidden(field.NewPath("provisioner"), "updates to provisioner are forbidden."))
	}
	errs = append(errs, validation.ValidateImmutableField(c.ReclaimPolicy, old.ReclaimPolicy, field.NewPath("reclaimPolicy"))...)
	return append(errs, validation.ValidateImmutableField(c.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
}

func volumeAttributesClasses() kind.Definition {
	return &kind.Kind[*storagev1.VolumeAttributesClass]{
		Resource: "volumeattributesclasses", Singular: "volumeattributesclass", ShortNames: []string{"vac"},
		Cluster: true,
		New:     func() *storagev1.VolumeAttributesClass { return &storagev1.VolumeAttributesClass{} },
		NewList: func() runtime.Object { return &storagev1.VolumeAttributesClassList{} },
		Validate: func(c *storagev1.VolumeAttributesClass) field.ErrorList {
			errs := validateProvisioner(c.DriverName, field.NewPath("driverName"))
			if len(c.Parameters) == 0 {
				return append(errs, field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))
			}
			return append(errs, validateParameters(c.Parameters, field.NewPath("parameters"))...)
		},
		ValidateUpdate: func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
			var errs field.ErrorList
			if c.DriverName != old.DriverName {
				errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
			}
			if !apiequality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
				errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
			}
			return errs
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("DriverName", storagev1.VolumeAttributesClass{}.SwaggerDoc()["driverName"]),
			kind.AgeColumn,
		},
		Cells: func(c *storagev1.VolumeAttributesClass) []any {
			return []any{c.Name, c.DriverName, kind.Age(c.CreationTimestamp)}
		},
	}
}

func volumeAttachments() kind.Definition {
	doc := storagev1.VolumeAttachmentSpec{}.SwaggerDoc()
	return &kind.Kind[*storagev1.VolumeAttachment]{
		Resource: "volumeattachments", Singular: "volumeattachment",
		Cluster:       true,
		New:           func() *storagev1.VolumeAttachment { return &storagev1.VolumeAttachment{} },
		NewList:       func() runtime.Object { return &storagev1.VolumeAttachmentList{} },
		ReturnDeleted: true,
		Validate: func(a *storagev1.VolumeAttachment) field.ErrorList {
			at := field.NewPath("spec")
			var errs field.ErrorList
			if (a.Spec.Source.PersistentVolumeName == nil) == (a.Spec.Source.InlineVolumeSpec == nil) {
				errs = append(errs, field.Required(at.Child("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
			}
			errs = append(errs, kind.Invalid(at.Child("nodeName"), a.Spec.NodeName, validation.NameIsDNSSubdomain(a.Spec.NodeName, false))...)
			return append(errs, validateDriverName(a.Spec.Attacher, at.Child("attacher"))...)
		},
		ValidateUpdate: func(a, old *storagev1.VolumeAttachment) field.ErrorList {
			if !apiequality.Semantic.DeepEqual(a.Spec, old.Spec) {
				return field.ErrorList{field.Invalid(field.NewPath("spec"), a.Spec, "field is immutable")}
			}
			return nil
		},
		Status: &kind.Status[*storagev1.VolumeAttachment]{},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			{Name: "Attacher", Type: "string", Format: "name", Description: doc["attacher"]},
			kind.Column("PV", "Name of the persistent volume that is attached"),
			kind.Column("Node", doc["nodeName"]),
			{Name: "Attached", Type: "boolean", Description: storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]},
			kind.AgeColumn,
		},
		Cells: func(a *storagev1.VolumeAttachment) []any {
			return []any{a.Name, a.Spec.Attacher, kind.Or(a.Spec.Source.PersistentVolumeName, ""), a.Spec.NodeName, a.Status.Attached, kind.Age(a.CreationTimestamp)}
		},
	}
}

func csiDrivers() kind.Definition {
	doc := storagev1.CSIDriverSpec{}.SwaggerDoc()
	return &kind.Kind[*storagev1.CSIDriver]{
		Resource: "csidrivers", Singular: "csidriver",
		Cluster:       true,
		New:           func() *storagev1.CSIDriver { return &storagev1.CSIDriver{} },
		Warn:          warnDriver,
		NewList:       func() runtime.Object { return &storagev1.CSIDriverList{} },
		ReturnDeleted: true,
		Generation:    func(d *storagev1.CSIDriver) any { return d.Spec }, // upstream counts from 0
		Default: func(d *storagev1.CSIDriver) {
			s := &d.Spec
			kind.SetDefaultPtr(&s.AttachRequired, true)
			kind.SetDefaultPtr(&s.PodInfoOnMount, false)
			kind.SetDefaultPtr(&s.StorageCapacity, false)
			kind.SetDefaultPtr(&s.PreventPodSchedulingIfMissing, false)
			kind.SetDefaultPtr(&s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
			kind.SetDefaultPtr(&s.RequiresRepublish, false)
			kind.SetDefaultPtr(&s.SELinuxMount, false)
			if len(s.VolumeLifecycleModes) == 0 {
				s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
			}
		},
		Validate: func(d *storagev1.CSIDriver) field.ErrorList {
			var errs field.ErrorList
			if len(d.Name) > 63 && len(validation.NameIsDNSSubdomain(d.Name, false)) == 0 {
				errs = append(errs, field.TooLong(field.NewPath("metadata", "name"), "" /*unused*/, 63))
			}
			return append(errs, validateDriver(&d.Spec, field.NewPath("spec"))...)
		},
		ValidateUpdate: func(d, old *storagev1.CSIDriver) field.ErrorList {
			at := field.NewPath("spec")
			errs := validation.ValidateImmutableField(d.Spec.AttachRequired, old.Spec.AttachRequired, at.Child("attachedRequired"))
			return append(errs, validation.ValidateImmutableField(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, at.Child("volumeLifecycleModes"))...)
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			{Name: "AttachRequired", Type: "boolean", Description: doc["attachRequired"]},
			{Name: "PodInfoOnMount", Type: "boolean", Description: doc["podInfoOnMount"]},
			{Name: "StorageCapacity", Type: "boolean", Description: doc["storageCapacity"]},
			kind.Column("TokenRequests", doc["tokenRequests"]),
			{Name: "RequiresRepublish", Type: "boolean", Description: doc["requiresRepublish"]},
			kind.Column("Modes", doc["volumeLifecycleModes"]),
			kind.AgeColumn,
		},
		Cells: func(d *storagev1.CSIDriver) []any {
			tokens, modes := "<unset>", make([]string, 0, len(d.Spec.VolumeLifecycleModes))
			if len(d.Spec.TokenRequests) > 0 {
				var audiences []string
				for _, t := range d.Spec.TokenRequests {
					audiences = append(audiences, t.Audience)
				}
				tokens = strings.Join(audiences, ",")
			}
			for _, m := range d.Spec.VolumeLifecycleModes {
				modes = append(modes, string(m))
			}
			return []any{
				d.Name, kind.Or(d.Spec.AttachRequired, true), kind.Or(d.Spec.PodInfoOnMount, false), kind.Or(d.Spec.StorageCapacity, false),
				tokens, kind.Or(d.Spec.RequiresRepublish, false), strings.Join(modes, ","), kind.Age(d.CreationTimestamp),
			}
		},
	}
}

func validateDriver(s *storagev1.CSIDriverSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p := s.FSGroupPolicy; p != nil {
		errs = append(errs, kind.Supported(*p, at.Child("fsGroupPolicy"), storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	}
	seen := map[string]bool{}
	for i, t := range s.TokenRequests {
		to := at.Child("tokenRequests").Index(i)
		if seen[t.Audience] {
			errs = append(errs, field.Duplicate(to.Child("audience"), t.Audience))
		}
		seen[t.Audience] = true
		if e := t.ExpirationSeconds; e != nil && (*e < 10*60 || *e > 1<<32) {
			why := "may not specify a duration less than 10 minutes"
			if *e > 1<<32 {
				why = "may not specify a duration larger than 2^32 seconds"
			}
			errs = append(errs, field.Invalid(to.Child("expirationSeconds"), *e, why))
		}
	}
	for _, m := range s.VolumeLifecycleModes {
		errs = append(errs, kind.Supported(m, at.Child("volumeLifecycleModes"), storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	return errs
}

func validateDriverName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(name) > 63 {
		errs = append(errs, field.TooLong(at, "" /*unused*/, 63))
	}
	return append(errs, kind.Invalid(at, name, utilvalidation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}

func csiNodes() kind.Definition {
	return &kind.Kind[*storagev1.CSINode]{
		Resource: "csinodes", Singular: "csinode",
		Cluster: true,
		New:     func() *storagev1.CSINode { return &storagev1.CSINode{} },
		NewList: func() runtime.Object { return &storagev1.CSINodeList{} },
		Validate: func(n *storagev1.CSINode) field.ErrorList {
			var errs field.ErrorList
			seen := map[string]bool{}
			for i, d := range n.Spec.Drivers {
				at := field.NewPath("spec", "drivers").Index(i)
				errs = append(errs, validateDriverName(d.Name, at.Child("name"))...)
				if seen[d.Name] {
					errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
				}
				seen[d.Name] = true
				if d.NodeID == "" {
					errs = append(errs, field.Required(at.Child("nodeID"), ""))
				}
			}
			return errs
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Number("Drivers", "Drivers indicates the number of CSI drivers registered on the node"),
			kind.AgeColumn,
		},
		Cells: func(n *storagev1.CSINode) []any {
			return []any{n.Name, int64(len(n.Spec.Drivers)), kind.Age(n.CreationTimestamp)}
		},
	}
}

func csiStorageCapacities() kind.Definition {
	doc := storagev1.CSIStorageCapacity{}.SwaggerDoc()
	return &kind.Kind[*storagev1.CSIStorageCapacity]{
		Resource: "csistoragecapacities", Singular: "csistoragecapacity",
		New:     func() *storagev1.CSIStorageCapacity { return &storagev1.CSIStorageCapacity{} },
		Warn:    warnCapacity,
		NewList: func() runtime.Object { return &storagev1.CSIStorageCapacityList{} },
		Validate: func(c *storagev1.CSIStorageCapacity) field.ErrorList {
			errs := kind.Invalid(field.NewPath("storageClassName"), c.StorageClassName, validation.NameIsDNSSubdomain(c.StorageClassName, false))
			if c.Capacity != nil && c.Capacity.Sign() < 0 {
				errs = append(errs, field.Invalid(field.NewPath("capacity"), c.Capacity.String(), validation.IsNegativeErrorMsg))
			}
			return errs
		},
		ValidateUpdate: func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
			errs := validation.ValidateImmutableField(c.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))
			return append(errs, validation.ValidateImmutableField(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("StorageClassName", doc["storageClassName"]),
			kind.Column("Capacity", doc["capacity"]),
		},
		Cells: func(c *storagev1.CSIStorageCapacity) []any {
			capacity := "<unset>"
			if c.Capacity != nil {
				capacity = c.Capacity.String()
			}
			return []any{c.Name, c.StorageClassName, capacity}
		},
	}
}
