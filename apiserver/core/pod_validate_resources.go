package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
)

var (
	standardContainerResources = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage)
	// standardResources are all names without a domain.
	standardResources = standardContainerResources.Union(sets.New(
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
		corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
		corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceStorage,
		corev1.ResourceRequestsStorage, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers))
)

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// isNative tells a resource of kubernetes.io, which needs no domain in its name.
func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// isExtended tells a resource of a device plugin from one that nodes know.
func isExtended(name corev1.ResourceName) bool {
	if isNative(name) || strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(utilvalidation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// resourceName checks what all names of resources keep to.
func resourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := invalidFor(at, name, utilvalidation.IsQualifiedName(string(name)))
	quotaHugePages := isHugePages(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
	if len(errs) == 0 && !strings.Contains(string(name), "/") && !standardResources.Has(name) && !quotaHugePages {
		errs = append(errs, field.Invalid(at, name, "must be a standard resource type or fully qualified"))
	}
	return errs
}

func containerResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := resourceName(name, at)
	switch {
	case !strings.Contains(string(name), "/"):
		if !standardContainerResources.Has(name) && !isHugePages(name) {
			errs = append(errs, field.Invalid(at, name, "must be a standard resource for containers"))
		}
	case !isNative(name) && !isExtended(name):
		errs = append(errs, field.Invalid(at, name, "doesn't follow extended resource name standard"))
	}
	return errs
}

func podResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := resourceName(name, at)
	if len(errs) == 0 && !resourcehelper.IsSupportedPodLevelResource(name) {
		errs = append(errs, field.NotSupported(at, name, sets.List(resourcehelper.SupportedPodLevelResources())))
	}
	return errs
}

// validateResource checks the name and the amount of what a container asks for.
func validateResource(name corev1.ResourceName, q resource.Quantity, at *field.Path) field.ErrorList {
	return append(containerResourceName(name, at), validateAmount(name, q, at)...)
}

func validateAmount(name corev1.ResourceName, q resource.Quantity, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if q.Sign() < 0 {
		errs = append(errs, field.Invalid(at, q.String(), validation.IsNegativeErrorMsg))
	}
	if isExtended(name) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(at, q, "must be an integer"))
	}
	return errs
}

// validateResources checks requests and limits at path. claims are the names of the
// pod's resource claims.
func validateResources(r *corev1.ResourceRequirements, claims []corev1.PodResourceClaim, nameRule func(corev1.ResourceName, *field.Path) field.ErrorList, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	limits, requests := path.Child("limits"), path.Child("requests")
	huge, plain := false, false
	each := func(name corev1.ResourceName, q resource.Quantity, at *field.Path) {
		errs = append(errs, nameRule(name, at)...)
		errs = append(errs, validateAmount(name, q, at)...)
		huge = huge || isHugePages(name)
		plain = plain || name == corev1.ResourceCPU || name == corev1.ResourceMemory
	}
	pages := func(name corev1.ResourceName, q resource.Quantity, at *field.Path) {
		if isHugePages(name) && !wholePages(name, q) {
			errs = append(errs, field.Invalid(at, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name)))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Limits)) {
		each(name, r.Limits[name], limits.Key(string(name)))
		pages(name, r.Limits[name], limits.Key(string(name)))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Requests)) {
		q := r.Requests[name]
		each(name, q, requests.Key(string(name)))
		limit, limited := r.Limits[name]
		overcommit := isNative(name) && !isHugePages(name)
		switch {
		case limited && !overcommit && q.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(requests, q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case limited && q.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		case !limited && !overcommit:
			errs = append(errs, field.Required(limits, "Limit must be set for non overcommitable resources"))
		}
		pages(name, q, requests.Key(string(name)))
	}
	if huge && !plain {
		errs = append(errs, field.Forbidden(path, "HugePages require cpu or memory"))
	}
	return append(errs, validateClaimNames(r.Claims, claims, path.Child("claims"))...)
}

// wholePages tells whether q is a number of huge pages of the size in name.
func wholePages(name corev1.ResourceName, q resource.Quantity) bool {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	return err == nil && size.Sign() > 0 && size.MilliValue()%1000 == 0 && q.Value()%size.Value() == 0
}

// validateClaimNames wants each reference to a claim to name one of the pod's, once.
func validateClaimNames(refs []corev1.ResourceClaim, claims []corev1.PodResourceClaim, path *field.Path) field.ErrorList {
	known := sets.New[string]()
	for _, c := range claims {
		if c.Name != "" {
			known.Insert(c.Name)
		}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, ref := range refs {
		at := path.Index(i)
		if ref.Name == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		key := ref.Name
		if ref.Request != "" && !seen.Has(ref.Name) {
			errs = append(errs, validateDNS1123Label(ref.Request, at.Child("request"))...)
			key += "/" + ref.Request
		}
		part := func(k string) bool { return ref.Request == "" && strings.HasPrefix(k, ref.Name+"/") }
		if seen.Has(ref.Name) || seen.Has(key) || slices.ContainsFunc(sets.List(seen), part) {
			errs = append(errs, field.Duplicate(at, key))
		}
		seen.Insert(key)
		if !known.Has(ref.Name) {
			missing := field.NotFound(at, ref.Name)
			missing.Detail = "must be one of the names in pod.spec.resourceClaims which is empty"
			if known.Len() > 0 {
				missing.Detail = "must be one of the names in pod.spec.resourceClaims: " + strings.Join(sets.List(known), ", ")
			}
			errs = append(errs, missing)
		}
	}
	return errs
}

// validateClaims checks the pod's claims of devices.
func validateClaims(claims []corev1.PodResourceClaim, meta *metav1.ObjectMeta, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, c := range claims {
		at := path.Index(i)
		if meta != nil {
			if _, mirror := meta.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
				return append(errs, field.Forbidden(field.NewPath(""), "static pods do not support resource claims"))
			}
		}
		switch {
		case c.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case names.Has(c.Name):
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		default:
			errs = append(errs, validateDNS1123Label(c.Name, at.Child("name"))...)
			names.Insert(c.Name)
		}
		switch {
		case c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil:
			errs = append(errs, field.Invalid(at, c, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		case c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil:
			errs = append(errs, field.Invalid(at, c, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		for name, ref := range map[string]*string{"resourceClaimName": c.ResourceClaimName, "resourceClaimTemplateName": c.ResourceClaimTemplateName} {
			if ref != nil {
				errs = append(errs, invalidFor(at.Child(name), *ref, validation.NameIsDNSSubdomain(*ref, false))...)
			}
		}
	}
	return errs
}

// validatePodResources checks what the pod as a whole asks for against its containers.
func validatePodResources(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	r := s.Resources
	if r == nil {
		return nil
	}
	if s.OS != nil && s.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(at, "may not be set for a windows pod")}
	}
	var errs field.ErrorList
	if r.Claims != nil {
		errs = append(errs, field.Forbidden(at.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	errs = append(errs, validateResources(r, s.ResourceClaims, podResourceName, at)...)
	pod := &corev1.Pod{Spec: *s}
	requests := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range slices.Sorted(maps.Keys(requests)) {
		sum := requests[name]
		if whole, ok := r.Requests[name]; ok && sum.Cmp(whole) > 0 {
			errs = append(errs, field.Invalid(at.Child("requests").Key(string(name)), whole.String(), fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", sum.String())))
		}
	}
	limits := resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		sum := limits[name]
		if whole, ok := r.Limits[name]; ok && isHugePages(name) && sum.Cmp(whole) > 0 {
			errs = append(errs, field.Invalid(at.Child("limits").Key(string(name)), whole.String(), fmt.Sprintf("must be greater than or equal to aggregate container limits of %s", sum.String())))
		}
	}
	for i, c := range s.Containers {
		for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
			limit := c.Resources.Limits[name]
			if whole, ok := r.Limits[name]; ok && limit.Cmp(whole) > 0 {
				errs = append(errs, field.Invalid(at.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(), fmt.Sprintf("must be less than or equal to pod limits of %s", whole.String())))
			}
		}
	}
	return errs
}
