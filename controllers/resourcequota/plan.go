package resourcequota

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"
)

// world is what is known of one quota and its namespace.
type world struct {
	quota    *corev1.ResourceQuota
	pods     []*corev1.Pod
	services []*corev1.Service
	claims   []*corev1.PersistentVolumeClaim
	counts   map[corev1.ResourceName]int64 // of kinds that are only counted, by their name in quotas
	now      time.Time
}

// plan works out the quota's status, nil if it is as it should be. again is when a
// pod that is being deleted counts no longer by time alone.
func plan(w world) (status *corev1.ResourceQuotaStatus, again time.Duration) {
	t := tally{w: w, used: corev1.ResourceList{}}
	for name := range w.quota.Spec.Hard {
		t.used[name] = *resource.NewQuantity(0, resource.DecimalSI)
	}
	for _, pod := range w.pods {
		t.pod(pod)
	}
	scopes := scopesOf(w.quota)
	for _, claim := range w.claims {
		t.claim(claim, scopes)
	}
	if len(scopes) == 0 {
		for _, service := range w.services {
			t.service(service)
		}
		for name, n := range w.counts {
			t.add(name, *resource.NewQuantity(n, resource.DecimalSI))
		}
	}
	next := corev1.ResourceQuotaStatus{Hard: w.quota.Spec.Hard, Used: t.used}
	if equality.Semantic.DeepEqual(w.quota.Status, next) {
		return nil, t.again
	}
	return &next, t.again
}

// lowers names what a status tells less of than the quota's does: that must not be
// written from what is out of date, or more is let in than there is room for.
func lowers(quota *corev1.ResourceQuota, next *corev1.ResourceQuotaStatus) (names []corev1.ResourceName) {
	for name, used := range quota.Status.Used {
		if now, ok := next.Used[name]; ok && now.Cmp(used) < 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// source is where the use of a resource is counted from.
type source string

const (
	pods     source = "pods"
	services source = "services"
	claims   source = "persistentvolumeclaims"
)

func sourceOf(name corev1.ResourceName) source {
	if kind, counted := countedKind(name); counted {
		return source(kind.String())
	}
	switch text := string(name); {
	case strings.HasPrefix(text, "services") || text == "count/services":
		return services
	case name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage || text == "count/persistentvolumeclaims" || strings.Contains(text, classSuffix):
		return claims
	}
	return pods
}

type tally struct {
	w     world
	used  corev1.ResourceList
	again time.Duration
}

func (t *tally) add(name corev1.ResourceName, amount resource.Quantity) {
	if sum, limited := t.used[name]; limited {
		sum.Add(amount)
		t.used[name] = sum
	}
}

func (t *tally) one(name corev1.ResourceName) {
	t.add(name, *resource.NewQuantity(1, resource.DecimalSI))
}

func (t *tally) pod(pod *corev1.Pod) {
	for _, s := range scopesOf(t.w.quota) {
		if !podMatches(pod, s) {
			return
		}
	}
	t.one("count/pods")
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return
	}
	if pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil {
		// A pod on a node that is gone may never be seen to end.
		left := pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second).Sub(t.w.now)
		if left <= 0 {
			return
		}
		if t.again == 0 || left < t.again {
			t.again = left
		}
	}
	t.one(corev1.ResourcePods)
	for name, amount := range resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true}) {
		t.add("requests."+name, amount)
		if plain(name) {
			t.add(name, amount)
		}
	}
	for name, amount := range resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true}) {
		if plain(name) && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			t.add("limits."+name, amount)
		}
	}
}

// plain resources may be limited by their bare name, others only as requests.NAME.
func plain(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/")
}

func (t *tally) service(service *corev1.Service) {
	t.one(corev1.ResourceServices)
	t.one("count/services")
	ports := int64(len(service.Spec.Ports))
	switch service.Spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		t.one(corev1.ResourceServicesLoadBalancers)
		if service.Spec.AllocateLoadBalancerNodePorts != nil && !*service.Spec.AllocateLoadBalancerNodePorts {
			ports = int64(len(slices.DeleteFunc(slices.Clone(service.Spec.Ports), func(p corev1.ServicePort) bool { return p.NodePort == 0 })))
		}
	case corev1.ServiceTypeNodePort:
	default:
		return
	}
	t.add(corev1.ResourceServicesNodePorts, *resource.NewQuantity(ports, resource.DecimalSI))
}

// classSuffix marks limits for one StorageClass.
const classSuffix = ".storageclass.storage.k8s.io/"

func (t *tally) claim(claim *corev1.PersistentVolumeClaim, scopes []corev1.ScopedResourceSelectorRequirement) {
	for _, s := range scopes {
		if s.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass || !claimMatches(claim, s) {
			return
		}
	}
	t.one(corev1.ResourcePersistentVolumeClaims)
	t.one("count/persistentvolumeclaims")
	class := ptr.Deref(claim.Spec.StorageClassName, "")
	if annotated, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		class = annotated
	}
	if class != "" {
		t.one(corev1.ResourceName(class + classSuffix + "persistentvolumeclaims"))
	}
	size, asks := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if !asks {
		return
	}
	if has, ok := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok && has.Cmp(size) > 0 {
		size = has
	}
	t.add(corev1.ResourceRequestsStorage, size)
	if class != "" {
		t.add(corev1.ResourceName(class+classSuffix+"requests.storage"), size)
	}
}

// scopesOf are the quota's scopes in one form.
func scopesOf(quota *corev1.ResourceQuota) []corev1.ScopedResourceSelectorRequirement {
	var all []corev1.ScopedResourceSelectorRequirement
	for _, name := range quota.Spec.Scopes {
		all = append(all, corev1.ScopedResourceSelectorRequirement{ScopeName: name, Operator: corev1.ScopeSelectorOpExists})
	}
	if quota.Spec.ScopeSelector != nil {
		all = append(all, quota.Spec.ScopeSelector.MatchExpressions...)
	}
	return all
}

func podMatches(pod *corev1.Pod, s corev1.ScopedResourceSelectorRequirement) bool {
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating(pod)
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating(pod)
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod)
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod)
	case corev1.ResourceQuotaScopePriorityClass:
		return selected(s, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return acrossNamespaces(pod)
	}
	return false
}

func terminating(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

func bestEffort(pod *corev1.Pod) bool {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass == corev1.PodQOSBestEffort
	}
	return len(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}))+len(resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})) == 0
}

func claimMatches(claim *corev1.PersistentVolumeClaim, s corev1.ScopedResourceSelectorRequirement) bool {
	classes := []string{ptr.Deref(claim.Spec.VolumeAttributesClassName, ""), ptr.Deref(claim.Status.CurrentVolumeAttributesClassName, "")}
	if m := claim.Status.ModifyVolumeStatus; m != nil {
		classes = append(classes, m.TargetVolumeAttributesClassName)
	}
	return slices.ContainsFunc(classes, func(class string) bool { return class != "" && selected(s, class) })
}

// selected matches a class name with a scope's operator and values.
func selected(s corev1.ScopedResourceSelectorRequirement, class string) bool {
	switch s.Operator {
	case corev1.ScopeSelectorOpExists:
		return class != ""
	case corev1.ScopeSelectorOpDoesNotExist:
		return class == ""
	case corev1.ScopeSelectorOpIn:
		return slices.Contains(s.Values, class)
	case corev1.ScopeSelectorOpNotIn:
		return !slices.Contains(s.Values, class)
	}
	return false
}

// acrossNamespaces says whether the pod's (anti-)affinity looks at other namespaces.
func acrossNamespaces(pod *corev1.Pod) bool {
	a := pod.Spec.Affinity
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	add := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		terms = append(terms, required...)
		for _, p := range preferred {
			terms = append(terms, p.PodAffinityTerm)
		}
	}
	if a.PodAffinity != nil {
		add(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		add(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}

// legacy are kinds that may be counted by their bare name too.
var legacy = map[corev1.ResourceName]string{
	corev1.ResourceConfigMaps: "configmaps", corev1.ResourceSecrets: "secrets",
	corev1.ResourceReplicationControllers: "replicationcontrollers", corev1.ResourceQuotas: "resourcequotas",
}

// countedKind is the kind a name in a quota counts; kinds whose use is worked out
// from whole objects are none.
func countedKind(name corev1.ResourceName) (schema.GroupResource, bool) {
	if resource, ok := legacy[name]; ok {
		return schema.GroupResource{Resource: resource}, true
	}
	rest, ok := strings.CutPrefix(string(name), "count/")
	if !ok || rest == "pods" || rest == "services" || rest == "persistentvolumeclaims" {
		return schema.GroupResource{}, false
	}
	return schema.ParseGroupResource(rest), true
}
