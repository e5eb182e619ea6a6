// Package devices is the API group resource.k8s.io: devices of nodes, and claims of
// them. No driver of this project offers devices; the objects are kept, with
// upstream's rules for their shape. CEL expressions are not compiled here.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package devices

import (
	"fmt"
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// Group describes the group.
func Group() kind.Group {
	return kind.Group{
		Name:        resourcev1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: resourcev1.AddToScheme,
		Kinds: map[string][]kind.Definition{"v1": {
			claims(), claimTemplates(), deviceClasses(), resourceSlices(), taintRules(),
		}},
	}
}

func claims() kind.Definition {
	return &kind.Kind[*resourcev1.ResourceClaim]{
		Resource: "resourceclaims", Singular: "resourceclaim",
		New:           func() *resourcev1.ResourceClaim { return &resourcev1.ResourceClaim{} },
		NewList:       func() runtime.Object { return &resourcev1.ResourceClaimList{} },
		ReturnDeleted: true,
		Default:       func(c *resourcev1.ResourceClaim) { defaultClaim(&c.Spec.Devices) },
		Validate: func(c *resourcev1.ResourceClaim) field.ErrorList {
			return validateClaim(&c.Spec.Devices, field.NewPath("spec", "devices"))
		},
		ValidateUpdate: func(c, old *resourcev1.ResourceClaim) field.ErrorList {
			return validation.ValidateImmutableField(c.Spec, old.Spec, field.NewPath("spec"))
		},
		Status: &kind.Status[*resourcev1.ResourceClaim]{Validate: validateClaimStatus},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("State", "A summary of the current state (allocated, pending, reserved, etc.)."),
			kind.AgeColumn,
		},
		Cells: func(c *resourcev1.ResourceClaim) []any {
			return []any{c.Name, stateOf(c), kind.Age(c.CreationTimestamp)}
		},
	}
}

func stateOf(c *resourcev1.ResourceClaim) string {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case c.Status.Allocation == nil && c.DeletionTimestamp == nil:
		states = append(states, "pending")
	case c.Status.Allocation != nil:
		states = append(states, "allocated")
		if len(c.Status.ReservedFor) > 0 {
			states = append(states, "reserved")
		}
	}
	return strings.Join(states, ",")
}

func claimTemplates() kind.Definition {
	return &kind.Kind[*resourcev1.ResourceClaimTemplate]{
		Resource: "resourceclaimtemplates", Singular: "resourceclaimtemplate",
		New:     func() *resourcev1.ResourceClaimTemplate { return &resourcev1.ResourceClaimTemplate{} },
		NewList: func() runtime.Object { return &resourcev1.ResourceClaimTemplateList{} },
		Default: func(t *resourcev1.ResourceClaimTemplate) { defaultClaim(&t.Spec.Spec.Devices) },
		Validate: func(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
			return validateClaim(&t.Spec.Spec.Devices, field.NewPath("spec", "spec", "devices"))
		},
		ValidateUpdate: func(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
			return validation.ValidateImmutableField(t.Spec, old.Spec, field.NewPath("spec"))
		},
	}
}

func deviceClasses() kind.Definition {
	return &kind.Kind[*resourcev1.DeviceClass]{
		Resource: "deviceclasses", Singular: "deviceclass",
		Cluster:    true,
		New:        func() *resourcev1.DeviceClass { return &resourcev1.DeviceClass{} },
		NewList:    func() runtime.Object { return &resourcev1.DeviceClassList{} },
		Generation: func(c *resourcev1.DeviceClass) any { return c.Spec },
		Validate:   validateDeviceClass,
	}
}

func resourceSlices() kind.Definition {
	doc := resourcev1.ResourceSliceSpec{}.SwaggerDoc()
	return &kind.Kind[*resourcev1.ResourceSlice]{
		Resource: "resourceslices", Singular: "resourceslice",
		Cluster: true,
		New:     func() *resourcev1.ResourceSlice { return &resourcev1.ResourceSlice{} },
		Warn: func(s, _ *resourcev1.ResourceSlice) []string {
			if s.Spec.Driver == strings.ToLower(s.Spec.Driver) {
				return nil
			}
			return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", s.Spec.Driver)}
		},
		NewList:    func() runtime.Object { return &resourcev1.ResourceSliceList{} },
		Generation: func(s *resourcev1.ResourceSlice) any { return s.Spec },
		Default: func(s *resourcev1.ResourceSlice) {
			for i := range s.Spec.Devices {
				for j := range s.Spec.Devices[i].Taints {
					defaultTaint(&s.Spec.Devices[i].Taints[j])
				}
			}
		},
		Validate: func(s *resourcev1.ResourceSlice) field.ErrorList { return validateSlice(&s.Spec, nil) },
		ValidateUpdate: func(s, old *resourcev1.ResourceSlice) field.ErrorList {
			return validateSlice(&s.Spec, &old.Spec)
		},
		Fields: func(s *resourcev1.ResourceSlice) fields.Set {
			return fields.Set{
				resourcev1.ResourceSliceSelectorNodeName: kind.Or(s.Spec.NodeName, ""),
				resourcev1.ResourceSliceSelectorDriver:   s.Spec.Driver,
				resourcev1.ResourceSliceSelectorPoolName: s.Spec.Pool.Name,
			}
		},
		FieldRefusal: "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: %s",
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Node", doc["nodeName"]),
			kind.Column("Driver", doc["driver"]),
			kind.Column("Pool", resourcev1.ResourcePool{}.SwaggerDoc()["name"]),
			kind.AgeColumn,
		},
		Cells: func(s *resourcev1.ResourceSlice) []any {
			return []any{s.Name, kind.Or(s.Spec.NodeName, ""), s.Spec.Driver, s.Spec.Pool.Name, kind.Age(s.CreationTimestamp)}
		},
	}
}

func taintRules() kind.Definition {
	doc := resourcev1.DeviceTaint{}.SwaggerDoc()
	return &kind.Kind[*resourcev1.DeviceTaintRule]{
		Resource: "devicetaintrules", Singular: "devicetaintrule",
		Cluster:    true,
		New:        func() *resourcev1.DeviceTaintRule { return &resourcev1.DeviceTaintRule{} },
		NewList:    func() runtime.Object { return &resourcev1.DeviceTaintRuleList{} },
		Generation: func(r *resourcev1.DeviceTaintRule) any { return r.Spec },
		Default:    func(r *resourcev1.DeviceTaintRule) { defaultTaint(&r.Spec.Taint) },
		Validate: func(r *resourcev1.DeviceTaintRule) field.ErrorList {
			return validateTaint(&r.Spec.Taint, field.NewPath("spec", "taint"))
		},
		Status: &kind.Status[*resourcev1.DeviceTaintRule]{},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Key", doc["key"]),
			kind.Column("Value", doc["value"]),
			kind.Column("Effect", doc["effect"]),
			kind.Column("TimeAdded", doc["timeAdded"]),
			kind.AgeColumn,
		},
		Cells: func(r *resourcev1.DeviceTaintRule) []any {
			t, added := &r.Spec.Taint, ""
			if t.TimeAdded != nil {
				added = kind.Age(*t.TimeAdded)
			}
			return []any{r.Name, t.Key, t.Value, string(t.Effect), added, kind.Age(r.CreationTimestamp)}
		},
	}
}

func defaultClaim(d *resourcev1.DeviceClaim) {
	for i := range d.Requests {
		if e := d.Requests[i].Exactly; e != nil {
			defaultMode(&e.AllocationMode, &e.Count)
			defaultTolerations(e.Tolerations)
		}
		for j := range d.Requests[i].FirstAvailable {
			sub := &d.Requests[i].FirstAvailable[j]
			defaultMode(&sub.AllocationMode, &sub.Count)
			defaultTolerations(sub.Tolerations)
		}
	}
}

func defaultMode(mode *resourcev1.DeviceAllocationMode, count *int64) {
	kind.SetDefault(mode, resourcev1.DeviceAllocationModeExactCount)
	if *mode == resourcev1.DeviceAllocationModeExactCount {
		kind.SetDefault(count, 1)
	}
}

func defaultTolerations(tolerations []resourcev1.DeviceToleration) {
	for i := range tolerations {
		kind.SetDefault(&tolerations[i].Operator, resourcev1.DeviceTolerationOpEqual)
	}
}

func defaultTaint(t *resourcev1.DeviceTaint) {
	if t.TimeAdded == nil {
		now := metav1.NewTime(time.Now().Truncate(time.Second))
		t.TimeAdded = &now
	}
}
