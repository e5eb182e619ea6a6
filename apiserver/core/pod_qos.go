package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// QOSClass tells what a pod is guaranteed: all limits equal to requests, some
// requests, or nothing. Only CPU and memory count.
func QOSClass(p *corev1.Pod) corev1.PodQOSClass {
	sums := map[bool]corev1.ResourceList{true: {}, false: {}} // limits, requests
	guaranteed := true
	containers := append(append([]corev1.Container{}, p.Spec.Containers...), p.Spec.InitContainers...)
	add := func(limits bool, list corev1.ResourceList) (n int) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			q, ok := list[name]
			if !ok || q.Cmp(resource.Quantity{}) <= 0 {
				continue
			}
			n++
			total := sums[limits][name]
			total.Add(q)
			sums[limits][name] = total
		}
		return n
	}
	if r := p.Spec.Resources; r != nil && (len(r.Requests) > 0 || len(r.Limits) > 0) {
		add(false, r.Requests)
		guaranteed = add(true, r.Limits) == 2
	} else {
		for _, c := range containers {
			add(false, c.Resources.Requests)
			if add(true, c.Resources.Limits) != 2 {
				guaranteed = false
			}
		}
	}
	requests, limits := sums[false], sums[true]
	if len(requests) == 0 && len(limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	if guaranteed && len(requests) == len(limits) {
		for name, request := range requests {
			if limit, ok := limits[name]; !ok || limit.Cmp(request) != 0 {
				return corev1.PodQOSBurstable
			}
		}
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
