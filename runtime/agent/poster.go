package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// poster carries one pod's status to the API: always the newest, one write at a time.
type poster struct {
	a      *Agent
	writes sync.Mutex // held while writing, so that an old status never follows a newer one
	signal chan struct{}

	mu     sync.Mutex        // protects what follows
	pod    *corev1.Pod       // as last seen in the API
	latest *corev1.PodStatus // to be written, or written last
	dirty  bool
	known  bool // pod is what the API has, not only what the disk remembers
}

func newPoster(a *Agent, p *corev1.Pod) *poster {
	return &poster{a: a, pod: p, signal: make(chan struct{}, 1)}
}

func (p *poster) seen(pod *corev1.Pod) {
	p.mu.Lock()
	p.known = true
	if order, err := resourceversion.CompareResourceVersion(pod.ResourceVersion, p.pod.ResourceVersion); err != nil || order >= 0 || pod.UID != p.pod.UID {
		p.pod = pod
	}
	// Others write to the status, too: a node that seemed dead finds its pods
	// called unready. What only this node knows is said again.
	if p.latest != nil && !equality.Semantic.DeepEqual(p.pod.Status, mergeStatus(&p.pod.Status, p.latest)) {
		p.dirty = true
	}
	p.mu.Unlock()
	p.wake()
}

func (p *poster) wake() {
	select {
	case p.signal <- struct{}{}:
	default:
	}
}

// snapshot returns the pod as seen in the API with the newest status of its worker.
func (p *poster) snapshot() *corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod := p.pod.DeepCopy()
	if p.latest != nil {
		pod.Status = mergeStatus(&pod.Status, p.latest)
	}
	return pod
}

// current is the pod as last seen in the API, not to be changed, and the phase that snapshot would tell.
func (p *poster) current() (*corev1.Pod, corev1.PodPhase) {
	p.mu.Lock()
	defer p.mu.Unlock()
	phase := p.pod.Status.Phase
	if p.latest != nil && !ended(phase) {
		phase = p.latest.Phase
	}
	return p.pod, phase
}

// ended: nothing of such a pod runs, now or later.
func ended(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// refreshable: some volume's contents may change with the API's objects.
func (p *poster) refreshable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.pod.Spec.Volumes {
		v := &p.pod.Spec.Volumes[i]
		if v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil {
			return true
		}
	}
	return false
}

func (p *poster) post(s corev1.PodStatus) {
	p.mu.Lock()
	p.latest, p.dirty = &s, true
	p.mu.Unlock()
	p.wake()
}

// run writes what is posted until ctx ends, trying again while the API is away.
func (p *poster) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.signal:
		}
		p.settle(ctx)
		for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
			p.mu.Lock()
			dirty, name := p.dirty && p.known, p.pod.Name
			p.dirty = p.dirty && !dirty
			p.mu.Unlock()
			if !dirty {
				break
			}
			err := p.write(ctx)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return
			}
			p.a.log.Debug("cannot write a pod's status yet", "pod", name, "error", err)
			p.mu.Lock()
			p.dirty = true
			p.mu.Unlock()
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	}
}

// settling is how long a status waits that says no more than that the pod is being made. Most pods run
// by then: it is told in one write, and that one does not wait for another to end.
const settling = 100 * time.Millisecond

func (p *poster) settle(ctx context.Context) {
	timer := time.NewTimer(settling)
	defer timer.Stop()
	for p.beingMade() {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-p.signal:
		}
	}
}

// beingMade: what is to be written tells of a pod on its way, of which nothing has run or failed yet.
func (p *poster) beingMade() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.dirty || !p.known || p.latest == nil || p.latest.Phase != corev1.PodPending {
		return false
	}
	for _, list := range [][]corev1.ContainerStatus{p.latest.InitContainerStatuses, p.latest.ContainerStatuses, p.latest.EphemeralContainerStatuses} {
		for i := range list {
			w := list[i].State.Waiting
			if w == nil || w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				return false
			}
		}
	}
	return true
}

// flush writes a status now.
func (p *poster) flush(ctx context.Context, s corev1.PodStatus) error {
	p.mu.Lock()
	p.latest = &s
	p.mu.Unlock()
	return p.write(ctx)
}

// write brings the API's status of the pod to the latest. A pod that is gone, or
// another of its name, is a success: there is nobody to tell.
func (p *poster) write(ctx context.Context) error {
	p.writes.Lock()
	defer p.writes.Unlock()
	p.mu.Lock()
	cur, s := p.pod, p.latest
	p.mu.Unlock()
	pods := p.a.cfg.Client.CoreV1().Pods(cur.Namespace)
	uid := cur.UID
	for range 5 {
		want := cur.DeepCopy()
		want.Status = mergeStatus(&cur.Status, s)
		if equality.Semantic.DeepEqual(cur.Status, want.Status) {
			return nil
		}
		got, err := pods.UpdateStatus(ctx, want, metav1.UpdateOptions{})
		if err == nil {
			p.wrote(got)
			return nil
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("write the status of pod %s/%s: %w", want.Namespace, want.Name, err)
		}
		if cur, err = pods.Get(ctx, want.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			return nil
		} else if err != nil {
			return err
		}
		if cur.UID != uid {
			return nil
		}
	}
	return fmt.Errorf("write the status of pod %s/%s: five conflicts in a row", cur.Namespace, cur.Name)
}

// wrote remembers the answer to a write, unless the watch was faster.
func (p *poster) wrote(pod *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pod.UID == pod.UID {
		p.pod = pod
	}
}

// mergeStatus lays the node's view over the API's: conditions of others stay,
// the first start time stays, an ended pod never comes back.
func mergeStatus(cur, s *corev1.PodStatus) corev1.PodStatus {
	out := *s.DeepCopy()
	if cur.StartTime != nil {
		out.StartTime = cur.StartTime.DeepCopy()
	}
	if cur.QOSClass != "" {
		out.QOSClass = cur.QOSClass
	}
	if ended(cur.Phase) {
		out.Phase = cur.Phase
	}
	out.NominatedNodeName, out.Resize, out.ResourceClaimStatuses = cur.NominatedNodeName, cur.Resize, cur.ResourceClaimStatuses
	own := map[corev1.PodConditionType]corev1.PodCondition{}
	for _, c := range out.Conditions {
		own[c.Type] = c
	}
	var merged []corev1.PodCondition
	for _, c := range cur.Conditions { // in the API's order, so that equal statuses compare equal
		n, mine := own[c.Type]
		if !mine {
			merged = append(merged, c)
			continue
		}
		if n.Status == c.Status {
			n.LastTransitionTime = c.LastTransitionTime
		}
		merged = append(merged, n)
		delete(own, c.Type)
	}
	for _, c := range out.Conditions {
		if _, left := own[c.Type]; left {
			merged = append(merged, c)
		}
	}
	out.Conditions = merged
	return out
}
