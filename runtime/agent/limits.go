package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/pod"
)

// limitsInterval is how often the disk use of pods with limits is measured; upstream's.
const limitsInterval = 10 * time.Second

// watchLimits evicts pods that hold more on disk than they may, until ctx ends.
func (a *Agent) watchLimits(ctx context.Context) {
	tick := time.NewTicker(limitsInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var measured []*running
		a.eachPod(func(r *running) {
			if limited(r.poster.current()) {
				measured = append(measured, r)
			}
		})
		for _, r := range measured { // without the lock: trees can be large
			if message := overLimit(ctx, a.podsDir, r.poster.snapshot()); message != "" && ctx.Err() == nil {
				r.worker.Evict(message)
			}
		}
	}
}

// limited: the pod has emptyDirs with limits, and may write to them: init containers do before it runs.
func limited(p *corev1.Pod, phase corev1.PodPhase) bool {
	return len(pod.Limited(p)) > 0 && !ended(phase)
}

// overLimit says, in upstream's words, which emptyDir of a pod holds more than it
// may; "" if none does.
func overLimit(ctx context.Context, podsDir string, p *corev1.Pod) string {
	limits := pod.Limited(p)
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		limit := limits[name]
		if used := countTree(ctx, pod.VolumeDir(podsDir, p, name)); int64(used.bytes) > limit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", name, limit.String())
		}
	}
	return ""
}

// usesVolume says whether a pod of this node may have the volume mounted. While
// the agent does not know all of its pods yet, any may.
func (a *Agent) usesVolume(volume string) bool {
	a.mu.Lock()
	ready := a.resumed
	all := maps.Clone(a.pods)
	a.mu.Unlock()
	if !ready {
		return true
	}
	for uid, r := range all {
		answer := make(chan bool, 1)
		r.worker.AskUses(volume, func(uses bool) { answer <- uses })
		select {
		case uses := <-answer:
			if uses {
				return true
			}
		case <-r.worker.Ended():
			// Only what was dropped is gone from the node: a worker also ends with the agent,
			// and its containers run on.
			if a.running(uid) == r {
				return true
			}
		}
	}
	return false
}
