package deployment

import (
	"cmp"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func replicas(d *appsv1.Deployment) int32     { return ptr.Deref(d.Spec.Replicas, 1) }
func wanted(rs *appsv1.ReplicaSet) int32      { return ptr.Deref(rs.Spec.Replicas, 1) }
func actual(rs *appsv1.ReplicaSet) int32      { return rs.Status.Replicas }
func readyOf(rs *appsv1.ReplicaSet) int32     { return rs.Status.ReadyReplicas }
func availableOf(rs *appsv1.ReplicaSet) int32 { return rs.Status.AvailableReplicas }

// staying are the available pods that are not on their way out. Upstream counts
// all available ones, and takes too many when a ReplicaSet was told to shrink and
// has not done so yet.
func staying(rs *appsv1.ReplicaSet) int32 { return min(availableOf(rs), wanted(rs)) }

func size(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) int32 {
	sum := int32(0)
	for _, rs := range sets {
		if rs != nil {
			sum += of(rs)
		}
	}
	return sum
}

func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Time.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

func rolling(d *appsv1.Deployment) bool {
	return d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType
}

// fenceposts are maxSurge (rounded up) and maxUnavailable (rounded down) in pods;
// when both would be 0, one pod may be unavailable, or nothing could ever move.
func fenceposts(d *appsv1.Deployment) (surge, unavailable int32) {
	quarter := intstr.FromString("25%")
	s, u := &quarter, &quarter
	if r := d.Spec.Strategy.RollingUpdate; r != nil {
		if r.MaxSurge != nil {
			s = r.MaxSurge
		}
		if r.MaxUnavailable != nil {
			u = r.MaxUnavailable
		}
	}
	// The API has refused values that do not scale.
	up, _ := intstr.GetScaledValueFromIntOrPercent(s, int(replicas(d)), true)
	down, _ := intstr.GetScaledValueFromIntOrPercent(u, int(replicas(d)), false)
	if up == 0 && down == 0 {
		down = 1
	}
	return int32(up), int32(down)
}

func maxSurge(d *appsv1.Deployment) int32 {
	if !rolling(d) {
		return 0
	}
	surge, _ := fenceposts(d)
	return surge
}

func maxUnavailable(d *appsv1.Deployment) int32 {
	if !rolling(d) || replicas(d) == 0 {
		return 0
	}
	_, unavailable := fenceposts(d)
	return min(unavailable, replicas(d))
}

// newSetSize is how large the new ReplicaSet may be now.
func (r *rollout) newSetSize() int32 {
	if !rolling(r.d) {
		return replicas(r.d)
	}
	room := replicas(r.d) + maxSurge(r.d) - size(r.all, wanted)
	if room <= 0 {
		return wanted(r.newSet)
	}
	return wanted(r.newSet) + min(room, replicas(r.d)-wanted(r.newSet))
}

// rollingUpdate moves one step: the new ReplicaSet grows if it may; else the old
// ones shrink as far as availability allows.
func (r *rollout) rollingUpdate() {
	r.syncRevision(true)
	switch target := replicas(r.d); {
	case wanted(r.newSet) > target:
		if r.resize(r.newSet, target) {
			return
		}
	case wanted(r.newSet) < target:
		if r.resize(r.newSet, r.newSetSize()) {
			return
		}
	}
	r.shrinkOld()
}

func (r *rollout) shrinkOld() {
	if size(r.old, wanted) == 0 {
		return
	}
	minAvailable := replicas(r.d) - maxUnavailable(r.d)
	newUnavailable := wanted(r.newSet) - staying(r.newSet)
	room := size(r.all, wanted) - minAvailable - newUnavailable
	if room <= 0 {
		return
	}
	// Pods that do not work go first: they block a rollout and serve nobody.
	for _, rs := range r.old {
		if unhealthy := wanted(rs) - availableOf(rs); unhealthy > 0 && room > 0 {
			n := min(room, unhealthy)
			r.resize(rs, wanted(rs)-n)
			room -= n
		}
	}
	surplus := size(r.all, staying) - minAvailable
	for _, rs := range r.old {
		if n := min(surplus, wanted(rs)); n > 0 {
			r.resize(rs, wanted(rs)-n)
			surplus -= n
		}
	}
}

// wasScaled says whether the Deployment's size is another than its ReplicaSets know.
func (r *rollout) wasScaled() bool {
	for _, rs := range r.all {
		if wanted(rs) == 0 {
			continue
		}
		if desired, ok := sizeNote(rs, desiredAnnotation); ok && desired != replicas(r.d) {
			return true
		}
	}
	return false
}

// scale brings a Deployment whose size was changed, or that is paused, to its size
// without moving a rollout: in proportion over all that have pods.
func (r *rollout) scale() {
	if rs := r.activeOrLatest(); rs != nil {
		if wanted(rs) != replicas(r.d) {
			r.resize(rs, replicas(r.d))
		} else {
			r.noteSizes(rs)
		}
		return
	}
	if r.saturated() {
		for _, rs := range r.old {
			r.resize(rs, 0)
		}
		return
	}
	if !rolling(r.d) { // the strategy was changed in the middle of a rolling update
		for _, rs := range r.all {
			r.noteSizes(rs)
		}
		return
	}
	allowed := int32(0)
	if replicas(r.d) > 0 {
		allowed = replicas(r.d) + maxSurge(r.d)
	}
	r.proportional(allowed - size(r.all, wanted))
}

func (r *rollout) noteSizes(rs *appsv1.ReplicaSet) {
	if wanted(rs) > 0 {
		setSizes(rs, replicas(r.d), replicas(r.d)+maxSurge(r.d))
	}
}

// activeOrLatest is the only ReplicaSet with pods; if none has any, the new or the
// youngest; nil if several have.
func (r *rollout) activeOrLatest() *appsv1.ReplicaSet {
	var active []*appsv1.ReplicaSet
	for _, rs := range r.all {
		if wanted(rs) > 0 {
			active = append(active, rs)
		}
	}
	switch {
	case len(active) == 1:
		return active[0]
	case len(active) > 1:
		return nil
	case r.newSet != nil:
		return r.newSet
	case len(r.old) > 0:
		return r.old[len(r.old)-1]
	}
	return nil
}

func (r *rollout) saturated() bool {
	if r.newSet == nil {
		return false
	}
	desired, ok := sizeNote(r.newSet, desiredAnnotation)
	return ok && wanted(r.newSet) == replicas(r.d) && desired == replicas(r.d) && availableOf(r.newSet) == replicas(r.d)
}

// proportional spreads a number of pods to add (or, negative, to take away) over
// the ReplicaSets with pods by their size; what rounding leaves goes to the first.
func (r *rollout) proportional(toAdd int32) {
	var active []*appsv1.ReplicaSet
	for _, rs := range r.all {
		if wanted(rs) > 0 {
			active = append(active, rs)
		}
	}
	slices.SortStableFunc(active, func(a, b *appsv1.ReplicaSet) int { // larger first
		if wanted(a) != wanted(b) {
			return int(wanted(b) - wanted(a))
		}
		if toAdd > 0 {
			return byAge(b, a)
		}
		return byAge(a, b)
	})
	sizes, added := make([]int32, len(active)), int32(0)
	for i, rs := range active {
		share := r.share(rs, toAdd, added)
		sizes[i] = wanted(rs) + share
		added += share
	}
	for i, rs := range active {
		if i == 0 && toAdd != 0 {
			sizes[0] = max(0, sizes[0]+toAdd-added)
		}
		if !r.resize(rs, sizes[i]) {
			r.noteSizes(rs)
		}
	}
}

// share is a ReplicaSet's part of toAdd, of which added are given out.
func (r *rollout) share(rs *appsv1.ReplicaSet, toAdd, added int32) int32 {
	if wanted(rs) == 0 || toAdd == 0 || toAdd == added {
		return 0
	}
	fraction := -wanted(rs)
	if replicas(r.d) != 0 {
		was, ok := sizeNote(rs, maxAnnotation)
		if !ok || was == 0 {
			was = r.d.Status.Replicas
		}
		if was == 0 {
			return 0
		}
		grown := float64(wanted(rs)) * float64(replicas(r.d)+maxSurge(r.d)) / float64(was)
		fraction = int32(math.Round(grown)) - wanted(rs)
	}
	if toAdd > 0 {
		return min(fraction, toAdd-added)
	}
	return max(fraction, toAdd-added)
}
