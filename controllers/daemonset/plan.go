package daemonset

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

// world is what is known of one DaemonSet.
type world struct {
	set       *appsv1.DaemonSet
	nodes     []*corev1.Node
	pods      []*corev1.Pod // it owns
	revisions []*appsv1.ControllerRevision
	now       time.Time
}

// removal is a pod to delete. Those that ended are told of; of those that failed, one
// after the other is taken with a pause.
type removal struct {
	pod   *corev1.Pod
	ended corev1.PodPhase // empty while it has not
}

// actions are carried out in this order.
type actions struct {
	revision history.Choice
	create   []*corev1.Pod
	remove   []removal
	drop     []*appsv1.ControllerRevision
	status   *appsv1.DaemonSetStatus // nil: as it is
	again    time.Duration
}

// site is one node with the set's pods on it.
type site struct {
	node      *corev1.Node
	get, stay bool
	old, new  []*corev1.Pod // not finished, the best first; those of the newest revision are new
	finished  []*corev1.Pod
}

type planning struct {
	world
	actions
	hash  string
	sites []*site // by node name
	stray []*corev1.Pod
	next  appsv1.DaemonSetStatus
}

func plan(w world) (actions, error) {
	raw, err := history.Data(&w.set.Spec.Template)
	if err != nil {
		return actions{}, err
	}
	p := planning{world: w}
	p.revision = history.Choose(w.revisions, w.set, kind, w.set.Spec.Template.Labels, raw, w.set.Status.CollisionCount)
	p.hash = p.revision.Revision.Labels[history.HashLabel]
	if p.revision.Create { // how a pod's revision is found, as upstream
		p.revision.Revision.Labels[appsv1.ControllerRevisionHashLabelKey] = p.hash
	}
	p.sort()
	p.count()
	if w.set.DeletionTimestamp != nil {
		p.revision = history.Choice{}
	} else {
		p.manage()
		if w.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType {
			p.roll()
		}
		p.trim()
	}
	if !equality.Semantic.DeepEqual(w.set.Status, p.next) {
		p.status = &p.next
	}
	return p.actions, nil
}

func (p *planning) sort() {
	byName := map[string]*site{}
	for _, node := range p.nodes {
		s := &site{node: node}
		s.get, s.stay = fits(p.set, node)
		byName[node.Name] = s
		p.sites = append(p.sites, s)
	}
	slices.SortFunc(p.sites, func(a, b *site) int { return cmp.Compare(a.node.Name, b.node.Name) })
	for _, pod := range p.pods {
		s, ok := byName[target(pod)]
		switch {
		case !ok:
			p.stray = append(p.stray, pod)
		case podview.Finished(pod):
			s.finished = append(s.finished, pod)
		case pod.Labels[appsv1.ControllerRevisionHashLabelKey] == p.hash:
			s.new = append(s.new, pod)
		default:
			s.old = append(s.old, pod)
		}
	}
	for _, s := range p.sites {
		byWorth := func(a, b *corev1.Pod) int {
			return cmp.Or(p.rank(a)-p.rank(b), a.CreationTimestamp.Time.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		}
		slices.SortFunc(s.old, byWorth)
		slices.SortFunc(s.new, byWorth)
	}
}

// rank puts first what is to be kept when there are two.
func (p *planning) rank(pod *corev1.Pod) int {
	switch {
	case pod.DeletionTimestamp != nil:
		return 2
	case p.available([]*corev1.Pod{pod}):
		return 0
	}
	return 1
}

func (p *planning) available(pods []*corev1.Pod) bool {
	for _, pod := range pods {
		ok, after := podview.Available(pod, p.set.Spec.MinReadySeconds, p.now)
		if after > 0 && (p.again == 0 || after < p.again) {
			p.again = after
		}
		if ok && pod.DeletionTimestamp == nil {
			return true
		}
	}
	return false
}

func (p *planning) count() {
	p.next = *p.set.Status.DeepCopy()
	s := &p.next
	s.DesiredNumberScheduled, s.CurrentNumberScheduled, s.NumberMisscheduled, s.NumberReady = 0, 0, 0, 0
	s.UpdatedNumberScheduled, s.NumberAvailable, s.NumberUnavailable = 0, 0, 0
	s.ObservedGeneration = p.set.Generation
	for _, at := range p.sites {
		all := slices.Concat(at.new, at.old)
		if !at.get {
			if len(all) > 0 {
				s.NumberMisscheduled++
			}
			continue
		}
		s.DesiredNumberScheduled++
		if len(all) == 0 {
			continue
		}
		s.CurrentNumberScheduled++
		if slices.ContainsFunc(all, podview.Ready) {
			s.NumberReady++
			if p.available(all) {
				s.NumberAvailable++
			}
		}
		if len(at.new) > 0 {
			s.UpdatedNumberScheduled++
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
}

func (p *planning) delete(pods ...*corev1.Pod) {
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil && !slices.ContainsFunc(p.remove, func(r removal) bool { return r.pod == pod }) {
			r := removal{pod: pod}
			if podview.Finished(pod) {
				r.ended = pod.Status.Phase
			}
			p.remove = append(p.remove, r)
		}
	}
}

// manage gives each node that should have a pod one, and takes others away. While one
// is on its way out, or has failed, no other is made beside it.
func (p *planning) manage() {
	p.delete(p.stray...)
	for _, at := range p.sites {
		p.delete(at.finished...)
		all := slices.Concat(at.new, at.old)
		switch {
		case at.get && len(all) == 0 && len(at.finished) == 0:
			p.create = append(p.create, newPod(p.set, p.hash, at.node.Name))
		case !at.stay:
			p.delete(all...)
		case at.get:
			if len(at.new) > 1 {
				p.delete(at.new[1:]...)
			}
			if len(at.old) > 1 {
				p.delete(at.old[1:]...)
			}
		}
	}
}

// limits are how many nodes may lack an available pod, or have two. One of them is
// not zero, or nothing could ever be updated.
func (p *planning) limits() (unavailable, surge int) {
	ru := p.set.Spec.UpdateStrategy.RollingUpdate
	if ru == nil {
		return 1, 0
	}
	desired := int(p.next.DesiredNumberScheduled)
	surge = scaled(ru.MaxSurge, desired, 0)
	unavailable = scaled(ru.MaxUnavailable, desired, 1)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return unavailable, surge
}

func scaled(v *intstr.IntOrString, of, otherwise int) int {
	if v == nil {
		return otherwise
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, of, true)
	if err != nil {
		return otherwise
	}
	return n
}

// roll replaces old pods: first those that serve nobody, then as many as the limits
// allow, in the order of node names.
func (p *planning) roll() {
	unavailable, surge := p.limits()
	var candidates []*site
	for _, at := range p.sites {
		if !at.get {
			continue
		}
		switch hasNew, hasOld := len(at.new) > 0, len(at.old) > 0; {
		case hasNew && hasOld:
			surge-- // until one of the two is seen to be gone
			if p.available(at.new) || !p.available(at.old) {
				p.delete(at.old...)
			}
			if !p.available(at.new) && !p.available(at.old) {
				unavailable--
			}
		case len(at.old) > 1:
			surge--
		case hasOld && p.available(at.old):
			candidates = append(candidates, at)
		case hasOld:
			unavailable--
			p.delete(at.old...)
		case !p.available(at.new):
			unavailable--
		}
	}
	_, maySurge := p.limits()
	for _, at := range candidates {
		switch {
		case maySurge > 0 && surge > 0:
			surge--
			p.create = append(p.create, newPod(p.set, p.hash, at.node.Name))
		case maySurge == 0 && unavailable > 0:
			unavailable--
			p.delete(at.old...)
		}
	}
}

// trim drops revisions that are neither in use nor within the history limit.
func (p *planning) trim() {
	hashes := map[string]bool{p.hash: true}
	for _, pod := range p.pods {
		hashes[pod.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
	}
	used := map[string]bool{}
	for _, r := range p.revisions {
		used[r.Name] = hashes[r.Labels[history.HashLabel]]
	}
	p.drop = history.Surplus(p.revisions, used, int(ptr.Deref(p.set.Spec.RevisionHistoryLimit, 10)))
}
