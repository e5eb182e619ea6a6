package quota

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/client-go/kubernetes"
	helpers "k8s.io/component-helpers/resource"

	"kontiki/apiserver/core"
)

// compute maps what containers ask for to the names that quotas have for it.
var compute = map[corev1.ResourceName]struct{ requests, limits corev1.ResourceName }{
	corev1.ResourceCPU:              {corev1.ResourceRequestsCPU, corev1.ResourceLimitsCPU},
	corev1.ResourceMemory:           {corev1.ResourceRequestsMemory, corev1.ResourceLimitsMemory},
	corev1.ResourceEphemeralStorage: {corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsEphemeralStorage},
}

func pods(client kubernetes.Interface) quota.Evaluator {
	return &evaluator{
		resource: corev1.Resource("pods"),
		list:     listing(client.CoreV1().Pods),
		handles: func(a admission.Attributes) bool {
			return created(a) || a.GetSubresource() == "resize" && a.GetOperation() == admission.Update
		},
		matches:     podResource,
		scope:       podScope,
		usage:       func(obj runtime.Object) (corev1.ResourceList, error) { return podUsage(obj, time.Now()) },
		constraints: podConstraints,
	}
}

func podResource(name corev1.ResourceName) bool {
	if name == corev1.ResourcePods || quota.ContainsPrefix([]string{corev1.ResourceHugePagesPrefix, corev1.ResourceRequestsHugePagesPrefix}, name) {
		return true
	}
	for resource, names := range compute {
		if name == resource || name == names.requests || name == names.limits {
			return true
		}
	}
	// Others are bounded by requests alone: they cannot be overcommitted.
	return !native(name) && strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
}

func podOf(obj runtime.Object) (*corev1.Pod, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("expect *v1.Pod, got %T", obj)
	}
	return pod, nil
}

// podUsage: a pod that has ended uses nothing but its place in the store.
func podUsage(obj runtime.Object, now time.Time) (corev1.ResourceList, error) {
	pod, err := podOf(obj)
	if err != nil {
		return nil, err
	}
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return corev1.ResourceList{}, nil
	}
	if d, grace := pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds; d != nil && grace != nil && now.After(d.Add(time.Duration(*grace)*time.Second)) {
		return corev1.ResourceList{}, nil
	}
	options := helpers.PodResourcesOptions{UseStatusResources: true}
	return computed(helpers.PodRequests(pod, options), helpers.PodLimits(pod, options)), nil
}

// computed are requests and limits under the names of quotas.
func computed(requests, limits corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{corev1.ResourcePods: one}
	for name, q := range requests {
		requested := corev1.ResourceName(corev1.DefaultResourceRequestsPrefix) + name
		switch {
		case compute[name].requests != "":
			out[name], out[compute[name].requests] = q, q
		case strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			out[name], out[requested] = q, q
		case !native(name) && !strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix):
			out[requested] = q
		}
	}
	for name, q := range limits {
		if compute[name].limits != "" {
			out[compute[name].limits] = q
		}
	}
	return out
}

// mustSpecify is upstream's list: where CPU or memory is bounded, every container
// has to say what it needs.
var mustSpecify = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
}

func podConstraints(required []corev1.ResourceName, obj runtime.Object) error {
	pod, err := podOf(obj)
	if err != nil {
		return err
	}
	if helpers.IsPodLevelResourcesSet(pod) {
		return nil
	}
	missing := map[corev1.ResourceName][]string{}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			says := computed(containers[i].Resources.Requests, containers[i].Resources.Limits)
			for _, name := range quota.Intersection(required, mustSpecify) {
				if _, ok := says[name]; !ok {
					missing[name] = append(missing[name], containers[i].Name)
				}
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var parts []string
	for name, containers := range missing {
		slices.Sort(containers)
		parts = append(parts, fmt.Sprintf("%s for: %s", name, strings.Join(slices.Compact(containers), ",")))
	}
	slices.Sort(parts)
	return fmt.Errorf("must specify %s", strings.Join(parts, "; "))
}

func podScope(r corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	pod, err := podOf(obj)
	if err != nil {
		return false, err
	}
	terminating := pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating, nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating, nil
	case corev1.ResourceQuotaScopeBestEffort:
		return core.QOSClass(pod) == corev1.PodQOSBestEffort, nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return core.QOSClass(pod) != corev1.PodQOSBestEffort, nil
	case corev1.ResourceQuotaScopePriorityClass:
		s, err := selector(r)
		if err != nil {
			return false, err
		}
		set := labels.Set{}
		if pod.Spec.PriorityClassName != "" {
			set[string(r.ScopeName)] = pod.Spec.PriorityClassName
		}
		return s.Matches(set), nil
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(pod.Spec.Affinity), nil
	}
	return false, nil
}

func crossesNamespaces(a *corev1.Affinity) bool {
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
	if p := a.PodAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}
