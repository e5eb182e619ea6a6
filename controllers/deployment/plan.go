package deployment

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kontiki/controllers/podview"
)

// world is what a Deployment is planned from.
type world struct {
	deployment *appsv1.Deployment
	sets       []*appsv1.ReplicaSet        // controlled by it
	pods       map[types.UID][]*corev1.Pod // of each set
	now        time.Time
}

// actions is what to write, in this order. Nil and empty mean nothing.
type actions struct {
	create *appsv1.ReplicaSet
	update []setUpdate
	remove []*appsv1.ReplicaSet
	// revision is the new value of the Deployment's revision annotation.
	revision string
	status   *appsv1.DeploymentStatus
	again    time.Duration // look again after this time, without any event
}

type setUpdate struct {
	set  *appsv1.ReplicaSet // as it shall be
	from int32              // replicas before
}

// rollout is one Deployment being planned: copies that the steps change; what was
// changed becomes the actions.
type rollout struct {
	world
	d         *appsv1.Deployment
	conds     *[]appsv1.DeploymentCondition // of d
	originals map[string]*appsv1.ReplicaSet
	all       []*appsv1.ReplicaSet // oldest first, with created
	newSet    *appsv1.ReplicaSet   // has the Deployment's template; nil if none
	old       []*appsv1.ReplicaSet
	created   *appsv1.ReplicaSet
	removed   []*appsv1.ReplicaSet
	touched   []string // names of sets in the order they were changed
}

// plan decides one pass. Events caused by what it wrote lead to the next.
func plan(w world) actions {
	r := newRollout(w)
	switch d := r.d; {
	case d.DeletionTimestamp != nil:
		return r.finish(r.statusNow())
	case d.Spec.Paused:
		r.notePause()
		r.syncRevision(false)
		r.scale()
		r.cleanup()
		return r.finish(r.statusNow())
	case r.wasScaled():
		r.notePause()
		r.syncRevision(false)
		r.scale()
		return r.finish(r.statusNow())
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		r.notePause()
		r.recreate()
	default:
		r.notePause()
		r.rollingUpdate()
	}
	if complete(r.d, r.statusNow()) {
		r.cleanup()
	}
	return r.finish(r.rolloutStatus())
}

func newRollout(w world) *rollout {
	r := &rollout{world: w, d: w.deployment.DeepCopy(), originals: map[string]*appsv1.ReplicaSet{}}
	r.conds = &r.d.Status.Conditions
	for _, rs := range w.sets {
		r.originals[rs.Name] = rs
		r.all = append(r.all, rs.DeepCopy())
	}
	slices.SortStableFunc(r.all, byAge)
	for _, rs := range r.all { // the oldest, if there are several
		if r.newSet == nil && sameTemplate(&rs.Spec.Template, &r.d.Spec.Template) {
			r.newSet = rs
			continue
		}
		r.old = append(r.old, rs)
	}
	return r
}

// syncRevision keeps the new ReplicaSet's annotations, and makes it if asked to.
func (r *rollout) syncRevision(create bool) {
	newRevision := maxRevision(r.old) + 1
	if r.newSet != nil {
		annotate(r.d, r.newSet, newRevision, true)
		r.newSet.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
		r.setRevision(r.newSet.Annotations[revisionAnnotation])
		if hasDeadline(r.d) && condition(*r.conds, appsv1.DeploymentProgressing) == nil {
			r.note(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonFoundNewSet, fmt.Sprintf("Found new replica set %q", r.newSet.Name))
		}
		return
	}
	if !create {
		return
	}
	r.created = newReplicaSet(r.d)
	r.newSet = r.created
	r.all = append(r.all, r.created)
	*r.created.Spec.Replicas = r.newSetSize()
	annotate(r.d, r.created, newRevision, false)
	r.setRevision(r.created.Annotations[revisionAnnotation])
	if hasDeadline(r.d) {
		r.note(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonNewSetCreated, fmt.Sprintf("Created new replica set %q", r.created.Name))
	}
}

func newReplicaSet(d *appsv1.Deployment) *appsv1.ReplicaSet {
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := d.Spec.Template.DeepCopy()
	template.Labels = withLabel(template.Labels, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, hash)
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            d.Name + "-" + hash,
			Namespace:       d.Namespace,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
			Labels:          template.Labels,
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        ptr.To[int32](0),
			MinReadySeconds: d.Spec.MinReadySeconds,
			Selector:        selector,
			Template:        *template,
		},
	}
}

func withLabel(labels map[string]string, hash string) map[string]string {
	with := map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: hash}
	for key, value := range labels {
		if key != appsv1.DefaultDeploymentUniqueLabelKey {
			with[key] = value
		}
	}
	return with
}

func (r *rollout) setRevision(revision string) {
	if r.d.Annotations[revisionAnnotation] == revision {
		return
	}
	if r.d.Annotations == nil {
		r.d.Annotations = map[string]string{}
	}
	r.d.Annotations[revisionAnnotation] = revision
}

// recreate lets all old pods go before any new one is made.
func (r *rollout) recreate() {
	r.syncRevision(false)
	scaledDown := false
	for _, rs := range r.old {
		scaledDown = r.resize(rs, 0) || scaledDown
	}
	if scaledDown || r.oldPodsRunning() {
		return
	}
	r.syncRevision(true)
	r.resize(r.newSet, replicas(r.d))
}

func (r *rollout) oldPodsRunning() bool {
	if size(r.old, actual) > 0 {
		return true
	}
	for uid, pods := range r.pods {
		if r.newSet != nil && r.newSet.UID == uid {
			continue
		}
		for _, pod := range pods {
			if !podview.Finished(pod) {
				return true
			}
		}
	}
	return false
}

// resize changes a ReplicaSet's size; true if it had another one.
func (r *rollout) resize(rs *appsv1.ReplicaSet, to int32) bool {
	if wanted(rs) == to {
		return false
	}
	rs.Spec.Replicas = &to
	setSizes(rs, replicas(r.d), replicas(r.d)+maxSurge(r.d))
	r.touched = append(r.touched, rs.Name)
	return true
}

// cleanup removes old ReplicaSets beyond revisionHistoryLimit, oldest revision first.
func (r *rollout) cleanup() {
	if r.d.Spec.RevisionHistoryLimit == nil {
		return
	}
	var idle []*appsv1.ReplicaSet
	for _, rs := range r.old {
		if rs.DeletionTimestamp == nil {
			idle = append(idle, rs)
		}
	}
	surplus := len(idle) - int(*r.d.Spec.RevisionHistoryLimit)
	if surplus <= 0 {
		return
	}
	slices.SortStableFunc(idle, func(a, b *appsv1.ReplicaSet) int {
		if d := revision(a.Annotations) - revision(b.Annotations); d != 0 {
			return int(d)
		}
		return byAge(a, b)
	})
	for _, rs := range idle[:surplus] {
		if actual(rs) == 0 && wanted(rs) == 0 && rs.Generation <= rs.Status.ObservedGeneration {
			r.removed = append(r.removed, rs)
		}
	}
}

// finish turns what was changed into actions.
func (r *rollout) finish(status appsv1.DeploymentStatus) actions {
	a := actions{create: r.created, remove: r.removed}
	order := slices.Clone(r.touched)
	for _, rs := range r.all {
		order = append(order, rs.Name)
	}
	seen := map[string]bool{}
	for _, name := range order {
		at := slices.IndexFunc(r.all, func(rs *appsv1.ReplicaSet) bool { return rs.Name == name })
		original, exists := r.originals[name]
		if seen[name] || !exists || r.all[at] == r.created {
			continue
		}
		seen[name] = true
		if rs := r.all[at]; !equality.Semantic.DeepEqual(original.Spec, rs.Spec) || !equality.Semantic.DeepEqual(original.Annotations, rs.Annotations) {
			a.update = append(a.update, setUpdate{rs, wanted(original)})
		}
	}
	if revision := r.d.Annotations[revisionAnnotation]; revision != r.deployment.Annotations[revisionAnnotation] {
		a.revision = revision
	}
	if !equality.Semantic.DeepEqual(r.deployment.Status, status) {
		a.status = &status
	} else {
		a.again = untilDeadline(r.d, status, r.now)
	}
	return a
}
