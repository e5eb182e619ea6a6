package devices

import (
	"fmt"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// all checks each item of a list that has at most limit, and no key twice.
func all[T any](items []T, limit int, key func(T) string, at *field.Path, check func(T, *field.Path) field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	if len(items) > limit {
		return field.ErrorList{field.TooMany(at, len(items), limit)}
	}
	seen := map[string]bool{}
	for i, item := range items {
		errs = append(errs, check(item, at.Index(i))...)
		if key == nil {
			continue
		}
		if k := key(item); seen[k] {
			errs = append(errs, field.Duplicate(at.Index(i), item))
		} else {
			seen[k] = true
		}
	}
	return errs
}

func same(s string) string { return s }

func label(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return kind.Invalid(at, name, utilvalidation.IsDNS1123Label(name))
}

func driver(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(name) > resourcev1.DriverNameMaxLength {
		errs = append(errs, field.TooLong(at, "" /*unused*/, resourcev1.DriverNameMaxLength))
	}
	return append(errs, kind.Invalid(at, name, utilvalidation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}

// requested are the names of a claim's requests, each with those of its alternatives.
type requested map[string][]string

func (r requested) has(ref string) bool {
	name, sub, alternative := strings.Cut(ref, "/")
	subs, ok := r[name]
	return ok && (!alternative || slices.Contains(subs, sub))
}

func validateClaim(d *resourcev1.DeviceClaim, at *field.Path) field.ErrorList {
	names := requested{}
	for _, r := range d.Requests {
		names[r.Name] = nil
		for _, sub := range r.FirstAvailable {
			names[r.Name] = append(names[r.Name], sub.Name)
		}
	}
	errs := all(d.Requests, resourcev1.DeviceRequestsMaxSize, func(r resourcev1.DeviceRequest) string { return r.Name }, at.Child("requests"), validateRequest)
	refs := func(list []string, at *field.Path) field.ErrorList {
		return all(list, resourcev1.DeviceRequestsMaxSize, same, at, func(ref string, at *field.Path) field.ErrorList {
			if names.has(ref) {
				return nil
			}
			return field.ErrorList{field.Invalid(at, ref, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'")}
		})
	}
	errs = append(errs, all(d.Constraints, resourcev1.DeviceConstraintsMaxSize, nil, at.Child("constraints"), func(c resourcev1.DeviceConstraint, at *field.Path) field.ErrorList {
		errs := refs(c.Requests, at.Child("requests"))
		if c.MatchAttribute == nil && c.DistinctAttribute == nil {
			errs = append(errs, field.Required(at, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
		}
		return errs
	})...)
	return append(errs, all(d.Config, resourcev1.DeviceConfigMaxSize, nil, at.Child("config"), func(c resourcev1.DeviceClaimConfiguration, at *field.Path) field.ErrorList {
		return append(refs(c.Requests, at.Child("requests")), validateConfiguration(c.DeviceConfiguration, at)...)
	})...)
}

func validateConfiguration(c resourcev1.DeviceConfiguration, at *field.Path) field.ErrorList {
	if c.Opaque == nil {
		return field.ErrorList{field.Required(at.Child("opaque"), "")}
	}
	errs := driver(c.Opaque.Driver, at.Child("opaque", "driver"))
	if len(c.Opaque.Parameters.Raw) == 0 {
		errs = append(errs, field.Required(at.Child("opaque", "parameters"), ""))
	} else if n := len(c.Opaque.Parameters.Raw); n > resourcev1.OpaqueParametersMaxLength {
		errs = append(errs, field.TooLong(at.Child("opaque", "parameters"), "" /*unused*/, resourcev1.OpaqueParametersMaxLength))
	}
	return errs
}

func validateRequest(r resourcev1.DeviceRequest, at *field.Path) field.ErrorList {
	errs := label(r.Name, at.Child("name"))
	switch {
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		return append(errs, field.Required(at, "exactly one of `exactly` or `firstAvailable` is required"))
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		return append(errs, field.Invalid(at, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
	case r.Exactly != nil:
		e, to := r.Exactly, at.Child("exactly")
		return append(errs, validateWanted(wanted{e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations}, to)...)
	}
	return append(errs, all(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, func(s resourcev1.DeviceSubRequest) string { return s.Name }, at.Child("firstAvailable"),
		func(s resourcev1.DeviceSubRequest, at *field.Path) field.ErrorList {
			errs := label(s.Name, at.Child("name"))
			return append(errs, validateWanted(wanted{s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations}, at)...)
		})...)
}

// wanted is what requests and their alternatives have in common.
type wanted struct {
	class       string
	selectors   []resourcev1.DeviceSelector
	mode        resourcev1.DeviceAllocationMode
	count       int64
	tolerations []resourcev1.DeviceToleration
}

func validateWanted(w wanted, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if w.class == "" {
		errs = append(errs, field.Required(at.Child("deviceClassName"), ""))
	} else {
		errs = append(errs, kind.Invalid(at.Child("deviceClassName"), w.class, utilvalidation.IsDNS1123Subdomain(w.class))...)
	}
	errs = append(errs, validateSelectors(w.selectors, at.Child("selectors"))...)
	switch w.mode {
	case resourcev1.DeviceAllocationModeAll:
		if w.count != 0 {
			errs = append(errs, field.Invalid(at.Child("count"), w.count, fmt.Sprintf("must not be specified when allocationMode is '%s'", w.mode)))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if w.count <= 0 {
			errs = append(errs, field.Invalid(at.Child("count"), w.count, "must be greater than zero"))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("allocationMode"), w.mode, []resourcev1.DeviceAllocationMode{resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount}))
	}
	for i := range w.tolerations {
		errs = append(errs, validateToleration(&w.tolerations[i], at.Child("tolerations").Index(i))...)
	}
	return errs
}

func validateSelectors(selectors []resourcev1.DeviceSelector, at *field.Path) field.ErrorList {
	return all(selectors, resourcev1.DeviceSelectorsMaxSize, nil, at, func(s resourcev1.DeviceSelector, at *field.Path) field.ErrorList {
		switch {
		case s.CEL == nil:
			return field.ErrorList{field.Required(at.Child("cel"), "")}
		case len(s.CEL.Expression) > resourcev1.CELSelectorExpressionMaxLength:
			return field.ErrorList{field.TooLong(at.Child("cel", "expression"), "" /*unused*/, resourcev1.CELSelectorExpressionMaxLength)}
		}
		return nil
	})
}

func validateToleration(t *resourcev1.DeviceToleration, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, unversioned.ValidateLabelName(t.Key, at.Child("key"))...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, kind.Invalid(at.Child("value"), t.Value, utilvalidation.IsValidLabelValue(t.Value))...)
	default:
		errs = append(errs, field.NotSupported(at.Child("operator"), t.Operator, []resourcev1.DeviceTolerationOperator{resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists}))
	}
	if t.Effect != "" {
		errs = append(errs, validateEffect(t.Effect, at.Child("effect"))...)
	}
	return errs
}

func validateEffect(e resourcev1.DeviceTaintEffect, at *field.Path) field.ErrorList {
	return kind.OneOf(e, at, resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone)
}

func validateTaint(t *resourcev1.DeviceTaint, at *field.Path) field.ErrorList {
	errs := unversioned.ValidateLabelName(t.Key, at.Child("key"))
	errs = append(errs, kind.Invalid(at.Child("value"), t.Value, utilvalidation.IsValidLabelValue(t.Value))...)
	return append(errs, validateEffect(t.Effect, at.Child("effect"))...)
}

// validateClaimStatus keeps what was allocated as long as somebody uses it.
func validateClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("status")
	errs = append(errs, all(c.Status.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize,
		func(r resourcev1.ResourceClaimConsumerReference) string { return string(r.UID) }, at.Child("reservedFor"),
		func(r resourcev1.ResourceClaimConsumerReference, at *field.Path) field.ErrorList {
			var errs field.ErrorList
			for _, part := range []struct{ name, value string }{{"resource", r.Resource}, {"name", r.Name}, {"uid", string(r.UID)}} {
				if part.value == "" {
					errs = append(errs, field.Required(at.Child(part.name), ""))
				}
			}
			return errs
		})...)
	if len(c.Status.ReservedFor) > 0 && c.Status.Allocation == nil {
		errs = append(errs, field.Forbidden(at.Child("reservedFor"), "may not be specified when `allocated` is not set"))
	}
	if c.DeletionTimestamp != nil && len(c.Status.ReservedFor) > len(old.Status.ReservedFor) {
		errs = append(errs, field.Forbidden(at.Child("reservedFor"), "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
	}
	if old.Status.Allocation != nil && c.Status.Allocation != nil && !apiequality.Semantic.DeepEqual(c.Status.Allocation, old.Status.Allocation) {
		errs = append(errs, validation.ValidateImmutableField(c.Status.Allocation, old.Status.Allocation, at.Child("allocation"))...)
	}
	return errs
}

func validateDeviceClass(c *resourcev1.DeviceClass) field.ErrorList {
	at := field.NewPath("spec")
	errs := validateSelectors(c.Spec.Selectors, at.Child("selectors"))
	return append(errs, all(c.Spec.Config, resourcev1.DeviceConfigMaxSize, nil, at.Child("config"), func(c resourcev1.DeviceClassConfiguration, at *field.Path) field.ErrorList {
		return validateConfiguration(c.DeviceConfiguration, at)
	})...)
}

func validateSlice(s, old *resourcev1.ResourceSliceSpec) field.ErrorList {
	at := field.NewPath("spec")
	errs := driver(s.Driver, at.Child("driver"))
	errs = append(errs, validatePool(&s.Pool, at.Child("pool"))...)
	if old != nil {
		errs = append(errs, validation.ValidateImmutableField(s.Pool.Name, old.Pool.Name, at.Child("pool", "name"))...)
		errs = append(errs, validation.ValidateImmutableField(s.Driver, old.Driver, at.Child("driver"))...)
		errs = append(errs, validation.ValidateImmutableField(s.NodeName, old.NodeName, at.Child("nodeName"))...)
	}
	var set []string
	if s.NodeName != nil {
		if *s.NodeName == "" {
			errs = append(errs, field.Invalid(at.Child("nodeName"), "", "must be either unset or set to a non-empty string"))
		} else {
			set = append(set, "`nodeName`")
			errs = append(errs, kind.Invalid(at.Child("nodeName"), *s.NodeName, validation.NameIsDNSSubdomain(*s.NodeName, false))...)
		}
	}
	if s.NodeSelector != nil {
		set = append(set, "`nodeSelector`")
		if len(s.NodeSelector.NodeSelectorTerms) != 1 {
			errs = append(errs, field.Invalid(at.Child("nodeSelector", "nodeSelectorTerms"), s.NodeSelector.NodeSelectorTerms, "must have exactly one node selector term"))
		}
	}
	for _, flag := range []struct {
		name  string
		value *bool
	}{{"allNodes", s.AllNodes}, {"perDeviceNodeSelection", s.PerDeviceNodeSelection}} {
		switch {
		case flag.value == nil:
		case *flag.value:
			set = append(set, "`"+flag.name+"`")
		default:
			errs = append(errs, field.Invalid(at.Child(flag.name), false, "must be either unset or set to true"))
		}
	}
	const where = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch len(set) {
	case 0:
		errs = append(errs, field.Required(at, where))
	case 1:
	default:
		errs = append(errs, field.Invalid(at, fmt.Sprintf("{%s}", strings.Join(set, ", ")), where+", but multiple fields are set"))
	}
	if s.SharedCounters != nil && s.Devices != nil {
		errs = append(errs, field.Invalid(at, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	return append(errs, all(s.Devices, resourcev1.ResourceSliceMaxDevices, func(d resourcev1.Device) string { return d.Name }, at.Child("devices"),
		func(d resourcev1.Device, at *field.Path) field.ErrorList {
			errs := label(d.Name, at.Child("name"))
			for i := range d.Taints {
				errs = append(errs, validateTaint(&d.Taints[i], at.Child("taints").Index(i))...)
			}
			return errs
		})...)
}

func validatePool(p *resourcev1.ResourcePool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	name := at.Child("name")
	if p.Name == "" {
		errs = append(errs, field.Required(name, ""))
	} else {
		if len(p.Name) > resourcev1.PoolNameMaxLength {
			errs = append(errs, field.TooLong(name, "" /*unused*/, resourcev1.PoolNameMaxLength))
		}
		for _, part := range strings.Split(p.Name, "/") {
			errs = append(errs, kind.Invalid(name, part, utilvalidation.IsDNS1123Subdomain(part))...)
		}
	}
	if p.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(at.Child("resourceSliceCount"), p.ResourceSliceCount, "must be greater than zero"))
	}
	if p.Generation < 0 {
		errs = append(errs, field.Invalid(at.Child("generation"), p.Generation, "must be greater than or equal to zero"))
	}
	return errs
}
