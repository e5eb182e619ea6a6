package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"kontiki/controllers/podview"
)

// manage brings the number of active pods to what is wanted now.
func (p *planning) manage() {
	if suspended(p.job) || condition(&p.next, batchv1.JobFailureTarget) != nil || condition(&p.next, batchv1.JobSuccessCriteriaMet) != nil {
		p.remove = p.active[:min(len(p.active), maxChanges)]
		p.count = condition(&p.next, batchv1.JobFailureTarget) != nil
		return
	}
	if indexed(p.job) {
		p.removeWrongIndexes()
	}
	want, have := p.wanted(), len(p.active)-len(p.remove)
	if have > want {
		p.removeSurplus(have - want)
		return
	}
	if p.replacesOnlyFailed() {
		have += len(p.terminating)
	}
	n := min(want-have, maxChanges)
	if n <= 0 {
		return
	}
	if wait := p.backoff(); wait > 0 && !perIndex(p.job) {
		p.wake(wait)
		return
	}
	if !indexed(p.job) {
		p.create = slices.Repeat([]slot{{index: -1}}, n)
		return
	}
	p.createIndexes(n)
}

func (p *planning) replacesOnlyFailed() bool {
	policy := p.job.Spec.PodReplacementPolicy
	return policy != nil && *policy == batchv1.Failed || p.job.Spec.PodFailurePolicy != nil
}

// wanted is how many pods should be active. Without completions, once one has
// succeeded no more are made and none are taken.
func (p *planning) wanted() int {
	parallelism := int(ptr.Deref(p.job.Spec.Parallelism, 1))
	if p.job.Spec.Completions == nil {
		if p.succeeded() > 0 {
			return min(len(p.active), parallelism)
		}
		return parallelism
	}
	return min(completions(p.job)-p.succeeded()-len(p.failed), parallelism)
}

// removeWrongIndexes takes pods whose index is done, has failed, is out of range, or
// has an older pod.
func (p *planning) removeWrongIndexes() {
	seen := indexes{}
	for _, pod := range p.active {
		i := indexOf(pod)
		if i < 0 || i >= completions(p.job) || p.completed[i] || p.failed[i] || seen[i] {
			p.remove = append(p.remove, pod)
			continue
		}
		seen[i] = true
	}
}

// removeSurplus takes those that are not ready first, then the youngest.
func (p *planning) removeSurplus(n int) {
	var left []*corev1.Pod
	for _, pod := range p.active {
		if !slices.Contains(p.remove, pod) {
			left = append(left, pod)
		}
	}
	slices.Reverse(left) // youngest first
	slices.SortStableFunc(left, func(a, b *corev1.Pod) int { return worth(a) - worth(b) })
	p.remove = append(p.remove, left[:min(n, len(left), maxChanges)]...)
}

func worth(pod *corev1.Pod) int {
	switch {
	case pod.Spec.NodeName == "":
		return 0
	case !podview.Ready(pod):
		return 1
	}
	return 2
}

func (p *planning) createIndexes(n int) {
	taken := indexes{}
	for _, pod := range p.active {
		taken[indexOf(pod)] = true
	}
	if p.replacesOnlyFailed() {
		for _, pod := range p.terminating {
			taken[indexOf(pod)] = true
		}
	}
	last := map[int]*corev1.Pod{}
	if perIndex(p.job) {
		last = p.lastFailed()
	}
	for i := 0; i < completions(p.job) && len(p.create) < n; i++ {
		if taken[i] || p.completed[i] || p.failed[i] {
			continue
		}
		next := slot{index: i}
		if pod := last[i]; pod != nil { // its pause keeps no other index waiting
			next.failures, next.ignored = p.countsAfter(pod)
			if wait := p.pauseAfter(next.failures+next.ignored, endOf(pod)); wait > 0 {
				p.wake(wait)
				continue
			}
		}
		p.create = append(p.create, next)
	}
}

// backoff is what is left of the pause after pods failed: 10 s, doubled with each
// since the last success, 10 min at most. With backoffLimitPerIndex each index has its own.
func (p *planning) backoff() time.Duration {
	var lastFailure, lastSuccess time.Time
	for _, pod := range p.pods {
		at := endOf(pod)
		switch pod.Status.Phase {
		case corev1.PodFailed:
			if at.After(lastFailure) {
				lastFailure = at
			}
		case corev1.PodSucceeded:
			if at.After(lastSuccess) {
				lastSuccess = at
			}
		}
	}
	failures := 0
	for _, pod := range p.pods {
		if pod.Status.Phase == corev1.PodFailed && endOf(pod).After(lastSuccess) && judge(p.job, pod).action != batchv1.PodFailurePolicyActionIgnore {
			failures++
		}
	}
	if failures == 0 {
		return 0
	}
	return p.pauseAfter(failures, lastFailure)
}

// pauseAfter is what is left of the pause after so many failures.
func (p *planning) pauseAfter(failures int, last time.Time) time.Duration {
	pause := firstBackoff
	for range min(failures-1, 10) {
		pause = min(2*pause, lastBackoff)
	}
	return max(last.Add(pause).Sub(p.now), 0)
}

// endOf is when the last container of a pod ended.
func endOf(pod *corev1.Pod) time.Time {
	var end time.Time
	for _, s := range pod.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil && t.FinishedAt.After(end) {
			end = t.FinishedAt.Time
		}
	}
	if end.IsZero() {
		return pod.CreationTimestamp.Time
	}
	return end
}
