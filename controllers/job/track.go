package job

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// track counts pods that ended, each once:
//
//	ended, with finalizer -> UID in uncounted (status written) -> finalizer off
//	-> UID out of uncounted and into the count (status written)
//
// Completed indexes are a set, and need no middle step.
func (p *planning) track() {
	u := p.next.UncountedTerminatedPods
	if u == nil {
		u = &batchv1.UncountedTerminatedPods{}
	} else {
		u = u.DeepCopy()
	}
	held := map[types.UID]bool{}
	for _, pod := range tracked(p.pods) {
		held[pod.UID] = true
	}
	for _, pod := range p.pods {
		held[pod.UID] = held[pod.UID] || hasFinalizer(pod)
	}
	settle := func(uids []types.UID, count *int32) []types.UID {
		return slices.DeleteFunc(uids, func(uid types.UID) bool {
			if !held[uid] {
				*count++
			}
			return !held[uid]
		})
	}
	u.Succeeded = settle(u.Succeeded, &p.next.Succeeded)
	u.Failed = settle(u.Failed, &p.next.Failed)
	for _, pod := range p.pods {
		if hasFinalizer(pod) && len(p.free) < maxChanges {
			p.trackPod(pod, u)
		}
	}
	p.next.UncountedTerminatedPods = u
	p.rememberFailures()
	if indexed(p.job) {
		p.next.CompletedIndexes, p.next.Succeeded = p.completed.String(), int32(len(p.completed))
		if perIndex(p.job) {
			p.next.FailedIndexes = ptr.To(p.failed.String())
		}
	}
}

func (p *planning) trackPod(pod *corev1.Pod, u *batchv1.UncountedTerminatedPods) {
	index := indexOf(pod)
	switch {
	case slices.Contains(u.Succeeded, pod.UID), slices.Contains(u.Failed, pod.UID):
		p.free = append(p.free, pod)
	case pod.Status.Phase == corev1.PodSucceeded && indexed(p.job):
		if index >= 0 && index < completions(p.job) {
			p.completed[index] = true
		}
		p.free = append(p.free, pod)
	case pod.Status.Phase == corev1.PodSucceeded:
		u.Succeeded = append(u.Succeeded, pod.UID)
		p.free = append(p.free, pod)
	case p.ended(pod):
		v := judge(p.job, pod)
		p.free = append(p.free, pod)
		if indexed(p.job) && (index < 0 || index >= completions(p.job)) {
			return // of no index that there is any more
		}
		switch v.action {
		case batchv1.PodFailurePolicyActionIgnore:
			return
		case batchv1.PodFailurePolicyActionFailJob:
			p.failJob = v.message
		case batchv1.PodFailurePolicyActionFailIndex:
			if index >= 0 && perIndex(p.job) {
				p.failed[index] = true
			}
		}
		p.newlyFailed[pod.UID] = v
		u.Failed = append(u.Failed, pod.UID)
	}
}

// rememberFailures fails indexes that have used up their tries. The last pod that failed of
// an index keeps its finalizer until another pod carries its counts on.
func (p *planning) rememberFailures() {
	if !perIndex(p.job) {
		return
	}
	for i, pod := range p.lastFailed() {
		failures, _ := p.countsAfter(pod)
		if failures > int(*p.job.Spec.BackoffLimitPerIndex) && !p.completed[i] {
			p.failed[i] = true
		}
		carried := slices.ContainsFunc(p.active, func(a *corev1.Pod) bool { return indexOf(a) == i })
		if !p.failed[i] && !p.completed[i] && !carried {
			p.keep[pod.UID] = condition(&p.next, batchv1.JobFailureTarget) == nil && condition(&p.next, batchv1.JobSuccessCriteriaMet) == nil
		}
	}
	p.free = slices.DeleteFunc(p.free, func(pod *corev1.Pod) bool { return p.keep[pod.UID] })
}

// lastFailed are the last pods that failed, by index: the ones with the highest counts.
func (p *planning) lastFailed() map[int]*corev1.Pod {
	last := map[int]*corev1.Pod{}
	for _, pod := range p.pods {
		i := indexOf(pod)
		if i < 0 || i >= completions(p.job) || !p.ended(pod) {
			continue
		}
		if last[i] == nil || failuresOf(pod)+ignoredOf(pod) > failuresOf(last[i])+ignoredOf(last[i]) {
			last[i] = pod
		}
	}
	return last
}

// countsAfter are the failures of an index, and those that were ignored, with that of the pod.
func (p *planning) countsAfter(pod *corev1.Pod) (failures, ignored int) {
	if judge(p.job, pod).action == batchv1.PodFailurePolicyActionIgnore {
		return failuresOf(pod), ignoredOf(pod) + 1
	}
	return failuresOf(pod) + 1, ignoredOf(pod)
}
