package statefulset

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"kontiki/controllers/history"
	"kontiki/controllers/podview"
)

// world is what is known of one StatefulSet.
type world struct {
	set       *appsv1.StatefulSet
	pods      []*corev1.Pod // it owns
	revisions []*appsv1.ControllerRevision
	claimed   func(claim string) bool // whether there is a claim of that name
	now       time.Time
}

// actions are carried out in this order.
type actions struct {
	revision history.Choice
	identify []*corev1.Pod // to label with their identity
	claims   []lostClaim
	create   []*corev1.Pod
	scaled   []*corev1.Pod // to delete because fewer are wanted, claims first
	remove   []*corev1.Pod // to delete because they are to be made anew
	drop     []*appsv1.ControllerRevision
	status   *appsv1.StatefulSetStatus // nil: as it is
	again    time.Duration             // when a pod becomes available by time alone; 0 never
}

// lostClaim is one that a pod waits for and that is not there.
type lostClaim struct {
	pod   string
	claim *corev1.PersistentVolumeClaim
}

// rollout is one planning.
type rollout struct {
	world
	actions
	current, update *appsv1.ControllerRevision
	slots           []*corev1.Pod // by ordinal, from the first; nil is missing
	condemned       []*corev1.Pod // ordinals outside the slots, highest first
	next            appsv1.StatefulSetStatus
}

// plan decides the next steps. A pod has one identity, its name, and is only made
// when the API holds no pod of that name: one on a node that cannot be reached stays
// there, being deleted, until its node has stopped it or is removed.
func plan(w world) (actions, error) {
	r := rollout{world: w}
	raw, err := history.Data(&w.set.Spec.Template)
	if err != nil {
		return actions{}, err
	}
	r.actions.revision = history.Choose(w.revisions, w.set, kind, w.set.Spec.Template.Labels, raw, w.set.Status.CollisionCount)
	r.update = r.actions.revision.Revision
	r.current = r.update
	for _, rev := range w.revisions {
		if rev.Name == w.set.Status.CurrentRevision {
			r.current = rev
		}
	}
	r.sort()
	r.count()
	if w.set.DeletionTimestamp != nil {
		r.actions.revision = history.Choice{}
	} else {
		if err := r.step(); err != nil {
			return actions{}, err
		}
		r.trim()
	}
	if !equality.Semantic.DeepEqual(w.set.Status, r.next) {
		r.status = &r.next
	}
	return r.actions, nil
}

func start(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

// slot is the place of a pod among those that are wanted, from the first ordinal on;
// false if it is one too many.
func slot(set *appsv1.StatefulSet, pod *corev1.Pod) (at int, wanted bool) {
	_, ordinal := parse(pod.Name)
	at = ordinal - start(set)
	return at, at >= 0 && at < int(ptr.Deref(set.Spec.Replicas, 1))
}

func ordered(set *appsv1.StatefulSet) bool {
	return set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
}

func (r *rollout) sort() {
	r.slots = make([]*corev1.Pod, ptr.Deref(r.set.Spec.Replicas, 1))
	for _, pod := range r.pods {
		if at, wanted := slot(r.set, pod); wanted {
			r.slots[at] = pod
		} else {
			r.condemned = append(r.condemned, pod)
		}
	}
	slices.SortFunc(r.condemned, func(a, b *corev1.Pod) int {
		_, m := parse(a.Name)
		_, n := parse(b.Name)
		return cmp.Compare(n, m)
	})
}

func (r *rollout) available(pod *corev1.Pod) bool {
	ok, after := podview.Available(pod, r.set.Spec.MinReadySeconds, r.now)
	if after > 0 && (r.again == 0 || after < r.again) {
		r.again = after
	}
	return ok
}

// healthy says whether a pod is up: others may be touched.
func (r *rollout) healthy(pod *corev1.Pod) bool {
	return pod != nil && podview.Active(pod) && r.available(pod)
}

func (r *rollout) count() {
	r.next = *r.set.Status.DeepCopy()
	s := &r.next
	s.Replicas, s.ReadyReplicas, s.AvailableReplicas, s.CurrentReplicas, s.UpdatedReplicas = 0, 0, 0, 0, 0
	s.ObservedGeneration = r.set.Generation
	s.CurrentRevision, s.UpdateRevision = r.current.Name, r.update.Name
	for _, pod := range r.pods {
		s.Replicas++
		if podview.Ready(pod) && !podview.Finished(pod) {
			s.ReadyReplicas++
			if r.available(pod) {
				s.AvailableReplicas++
			}
		}
		if pod.DeletionTimestamp == nil {
			if revisionOf(pod) == r.current.Name {
				s.CurrentReplicas++
			}
			if revisionOf(pod) == r.update.Name {
				s.UpdatedReplicas++
			}
		}
	}
	wanted := ptr.Deref(r.set.Spec.Replicas, 1)
	if rolling(r.set) && s.UpdatedReplicas == wanted && s.ReadyReplicas == wanted && s.Replicas == wanted {
		s.CurrentRevision, s.CurrentReplicas = r.update.Name, s.UpdatedReplicas
	}
	if s.CollisionCount == nil {
		s.CollisionCount = ptr.To[int32](0)
	}
}

func rolling(set *appsv1.StatefulSet) bool {
	return set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType
}

// partition is how many of the first slots keep the current revision. It counts from the
// set's first ordinal, as upstream's does.
func partition(set *appsv1.StatefulSet) int {
	if ru := set.Spec.UpdateStrategy.RollingUpdate; rolling(set) && ru != nil {
		return int(ptr.Deref(ru.Partition, 0))
	}
	return 0
}

func maxUnavailable(set *appsv1.StatefulSet) int {
	ru := set.Spec.UpdateStrategy.RollingUpdate
	if ru == nil || ru.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(ru.MaxUnavailable, int(ptr.Deref(set.Spec.Replicas, 1)), false)
	if err != nil {
		return 1
	}
	return max(n, 1)
}

// step goes through the slots, then the pods that are too many, then updates; an
// ordered set stops at the first pod it has to wait for.
func (r *rollout) step() error {
	goOn, err := r.fill()
	if err != nil || !goOn {
		return err
	}
	if r.shrink() && rolling(r.set) {
		r.replace()
	}
	return nil
}

func (r *rollout) fill() (goOn bool, err error) {
	for i, pod := range r.slots {
		r.complete(i, pod)
		switch {
		case pod == nil:
			if pod, err = newPod(r.set, r.revisionFor(i), start(r.set)+i); err != nil {
				return false, err
			}
			r.create = append(r.create, pod)
		case podview.Finished(pod) && pod.DeletionTimestamp == nil:
			r.remove = append(r.remove, pod)
		case r.healthy(pod):
			continue
		}
		if ordered(r.set) {
			return false, nil
		}
	}
	return true, nil
}

// complete gives a pod that is there what it lacks: labels that somebody took off, and
// claims that were deleted before it had a node.
func (r *rollout) complete(i int, pod *corev1.Pod) {
	if pod == nil || !podview.Active(pod) {
		return
	}
	if !identified(pod) {
		r.identify = append(r.identify, pod)
	}
	if pod.Status.Phase != corev1.PodPending {
		return
	}
	for _, claim := range claimsOf(r.set, start(r.set)+i) {
		if !r.claimed(claim.Name) {
			r.claims = append(r.claims, lostClaim{pod.Name, claim})
		}
	}
}

// revisionFor is the current revision below the partition, else the new one.
func (r *rollout) revisionFor(slot int) *appsv1.ControllerRevision {
	if rolling(r.set) && slot < partition(r.set) {
		return r.current
	}
	return r.update
}

// shrink takes the pods that are too many, an ordered set the highest only. Upstream
// waits when that one and a lower one are both down, which nothing may ever end.
func (r *rollout) shrink() (goOn bool) {
	for _, pod := range r.condemned {
		if pod.DeletionTimestamp == nil {
			r.scaled = append(r.scaled, pod)
		}
		if ordered(r.set) {
			return false
		}
	}
	return true
}

// replace deletes pods of older revisions, from the highest ordinal down to the
// partition, while no more than maxUnavailable are down. One that is down already
// costs nothing.
func (r *rollout) replace() {
	down, allowed := 0, maxUnavailable(r.set)
	for _, pod := range r.slots {
		if !r.healthy(pod) {
			down++
		}
	}
	for i := len(r.slots) - 1; i >= 0 && i >= partition(r.set); i-- {
		pod := r.slots[i]
		if pod == nil || pod.DeletionTimestamp != nil || revisionOf(pod) == r.update.Name || slices.Contains(r.remove, pod) {
			continue
		}
		if r.healthy(pod) {
			if down >= allowed {
				return
			}
			down++
		}
		r.remove = append(r.remove, pod)
	}
}

// trim drops revisions that are neither in use nor within the history limit.
func (r *rollout) trim() {
	used := map[string]bool{r.current.Name: true, r.update.Name: true}
	for _, pod := range r.pods {
		used[revisionOf(pod)] = true
	}
	r.drop = history.Surplus(r.revisions, used, int(ptr.Deref(r.set.Spec.RevisionHistoryLimit, 10)))
}
