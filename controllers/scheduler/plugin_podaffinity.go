package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// term is an inter-pod affinity term of a pod, ready to be matched.
type term struct {
	key        string
	weight     int64
	namespaces map[string]bool
	// anyNamespace selects namespaces by label; nil selects none.
	anyNamespace labels.Selector
	selector     labels.Selector
}

func terms(pod *corev1.Pod, from []corev1.PodAffinityTerm) []term {
	ready := make([]term, 0, len(from))
	for _, t := range from {
		ready = append(ready, newTerm(pod, t, 0))
	}
	return ready
}

func weighted(pod *corev1.Pod, from []corev1.WeightedPodAffinityTerm, sign int64) []term {
	ready := make([]term, 0, len(from))
	for _, t := range from {
		ready = append(ready, newTerm(pod, t.PodAffinityTerm, sign*int64(t.Weight)))
	}
	return ready
}

func newTerm(pod *corev1.Pod, t corev1.PodAffinityTerm, weight int64) term {
	r := term{key: t.TopologyKey, weight: weight, namespaces: map[string]bool{}, selector: selectorOrNothing(t.LabelSelector)}
	for _, ns := range t.Namespaces {
		r.namespaces[ns] = true
	}
	if t.NamespaceSelector != nil {
		r.anyNamespace = selectorOrNothing(t.NamespaceSelector)
	} else if len(t.Namespaces) == 0 {
		r.namespaces[pod.Namespace] = true
	}
	return r
}

func selectorOrNothing(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing() // the API has refused such a pod
	}
	return selector
}

func (t term) matches(s *Snapshot, pod *corev1.Pod) bool {
	if !t.selector.Matches(labels.Set(pod.Labels)) {
		return false
	}
	if t.namespaces[pod.Namespace] {
		return true
	}
	if t.anyNamespace == nil {
		return false
	}
	if t.anyNamespace.Empty() {
		return true
	}
	return s.namespace != nil && t.anyNamespace.Matches(s.namespace(pod.Namespace))
}

func required(pod *corev1.Pod) (near, far []term) {
	a := pod.Spec.Affinity
	if a == nil {
		return nil, nil
	}
	if a.PodAffinity != nil {
		near = terms(pod, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		far = terms(pod, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	return near, far
}

func preferred(pod *corev1.Pod) []term {
	a := pod.Spec.Affinity
	if a == nil {
		return nil
	}
	var all []term
	if a.PodAffinity != nil {
		all = append(all, weighted(pod, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)...)
	}
	if a.PodAntiAffinity != nil {
		all = append(all, weighted(pod, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)...)
	}
	return all
}

func interPodAffinity() filterPlugin {
	return filterPlugin{
		name: "InterPodAffinity", helps: podAdded | podGone | podLabelsChanged | nodeAdded | nodeLabelsChanged,
		hint: affinityHint,
		prepare: func(c *cycle) *filter {
			a := newAffinities(c)
			lonely := never("node(s) didn't match pod affinity rules")
			crowded := no("node(s) didn't match pod anti-affinity rules")
			unwanted := no("node(s) didn't satisfy existing pods anti-affinity rules")
			return &filter{
				check: func(at int, _ *nodeInfo) *verdict {
					switch {
					case !a.nearAt(at):
						return lonely
					case a.far.anyAt(at):
						return crowded
					case a.rejectedAt(at):
						return unwanted
					}
					return nil
				},
				moved: a.moved,
			}
		},
	}
}

// tally counts pods that match terms, by the terms' domains.
type tally struct {
	terms   []term
	domains []*domains
	counts  [][]int
	total   int
}

func newTally(c *cycle, terms []term) tally {
	t := tally{terms: terms}
	for _, each := range terms {
		d := c.domainsOf(each.key)
		t.domains = append(t.domains, d)
		t.counts = append(t.counts, make([]int, d.count))
	}
	return t
}

func (t *tally) add(i, at, by int) {
	if domain := t.domains[i].of[at]; domain != none {
		t.counts[i][domain] += by
		t.total += by
	}
}

// anyAt says whether one of the terms is matched in the node's domain.
func (t *tally) anyAt(at int) bool {
	for i, d := range t.domains {
		if domain := d.of[at]; domain != none && t.counts[i][domain] > 0 {
			return true
		}
	}
	return false
}

// affinities are the required terms of a pod, and those of others that keep it away,
// with what was counted for them.
type affinities struct {
	*cycle
	near, far tally
	// rejecting counts pods whose anti-affinity the pod matches, by the label of
	// their term and its domain.
	rejecting map[string][]int
	self      bool            // the pod matches its own affinity terms
	together  map[string]bool // by shape: pods that match all near terms
	apart     map[string]uint64
}

func newAffinities(c *cycle) *affinities {
	a := &affinities{
		cycle: c, near: newTally(c, c.near), far: newTally(c, c.far), rejecting: map[string][]int{},
		together: map[string]bool{}, apart: map[string]uint64{},
		self: matchesAll(&c.Snapshot, c.placed.near, c.pod),
	}
	for at, n := range c.nodes {
		for _, p := range n.picky {
			a.reject(at, p, 1)
		}
		if len(c.placed.near)+len(c.placed.far) > 0 {
			for _, p := range n.pods {
				a.count(at, p, 1)
			}
		}
	}
	return a
}

func (a *affinities) moved(at int, p *placed, by int) {
	a.reject(at, p, by)
	a.count(at, p, by)
}

func (a *affinities) reject(at int, p *placed, by int) {
	for _, t := range p.far {
		if !t.matches(&a.Snapshot, a.pod) {
			continue
		}
		d := a.domainsOf(t.key)
		if d.of[at] == none {
			continue
		}
		if a.rejecting[t.key] == nil {
			a.rejecting[t.key] = make([]int, d.count)
		}
		a.rejecting[t.key][d.of[at]] += by
	}
}

func (a *affinities) count(at int, p *placed, by int) {
	if len(a.near.terms) > 0 {
		all, known := a.together[p.shape]
		if !known {
			all = matchesAll(&a.Snapshot, a.near.terms, p.pod)
			a.together[p.shape] = all
		}
		for i := range a.near.terms {
			if all {
				a.near.add(i, at, by)
			}
		}
	}
	for i := range a.far.terms {
		if matchesShape(&a.Snapshot, a.far.terms, a.apart, p)&(1<<i) != 0 {
			a.far.add(i, at, by)
		}
	}
}

// matchesShape is which of the terms (as bits) a pod matches, remembered by shape.
func matchesShape(s *Snapshot, terms []term, known map[string]uint64, p *placed) uint64 {
	bits, ok := known[p.shape]
	if !ok {
		for i, t := range terms {
			if t.matches(s, p.pod) {
				bits |= 1 << i
			}
		}
		known[p.shape] = bits
	}
	return bits
}

// nearAt says whether the pod's affinity holds on a node: each of its terms has a
// matching pod in the domain, or the pod is the first of its kind anywhere.
func (a *affinities) nearAt(at int) bool {
	for i, d := range a.near.domains {
		domain := d.of[at]
		if domain == none || a.near.counts[i][domain] == 0 && !(a.near.total == 0 && a.self) {
			return false
		}
	}
	return true
}

func (a *affinities) rejectedAt(at int) bool {
	if len(a.rejecting) == 0 {
		return false
	}
	for key, counts := range a.rejecting {
		if domain := a.domainsOf(key).of[at]; domain != none && counts[domain] > 0 {
			return true
		}
	}
	return false
}

func matchesAll(s *Snapshot, terms []term, pod *corev1.Pod) bool {
	for _, t := range terms {
		if !t.matches(s, pod) {
			return false
		}
	}
	return true
}

// affinityHint lets pods try again when a pod they want comes, one they or which
// avoids them goes, or a node gets a label of theirs.
func affinityHint(p *placed, e change) bool {
	if e.pod == nil {
		wants := append(append([]term(nil), p.near...), p.far...)
		return len(wants) == 0 || slices.ContainsFunc(wants, func(t term) bool { return e.hasLabel(t.key) })
	}
	everywhere := Snapshot{namespace: e.namespace}
	touches := func(t term) bool {
		return t.matches(&everywhere, e.pod.pod) || e.before != nil && t.matches(&everywhere, e.before)
	}
	return slices.ContainsFunc(p.near, touches) || slices.ContainsFunc(p.far, touches) ||
		slices.ContainsFunc(e.pod.far, func(t term) bool { return t.matches(&everywhere, p.pod) })
}

// scorePodAffinity adds up, by place, what the pod's wishes and those of the pods
// there say. A required affinity of a pod that is there counts as a wish of weight
// hard.
func scorePodAffinity(hard int64) func(*cycle) *scorer {
	return func(c *cycle) *scorer {
		w := &wishing{cycle: c, hard: hard, sums: map[string][]int64{}, shapes: map[string]uint64{}}
		for at, n := range c.nodes {
			if len(c.wishes) > 0 {
				for _, p := range n.pods {
					w.own(at, p, 1)
				}
			}
			for _, p := range n.picky {
				w.theirs(at, p, 1)
			}
		}
		return &scorer{each: w.rate, moved: func(at int, p *placed, by int) {
			w.own(at, p, int64(by))
			w.theirs(at, p, int64(by))
		}}
	}
}

type wishing struct {
	*cycle
	hard   int64
	sums   map[string][]int64 // by label and domain
	shapes map[string]uint64  // which own wishes pods of a shape match
}

func (w *wishing) add(key string, at int, weight int64) {
	d := w.domainsOf(key)
	if d.of[at] == none {
		return
	}
	if w.sums[key] == nil {
		w.sums[key] = make([]int64, d.count)
	}
	w.sums[key][d.of[at]] += weight
}

func (w *wishing) own(at int, p *placed, by int64) {
	if len(w.wishes) == 0 {
		return
	}
	bits := matchesShape(&w.Snapshot, w.wishes, w.shapes, p)
	for i, t := range w.wishes {
		if bits&(1<<i) != 0 {
			w.add(t.key, at, by*t.weight)
		}
	}
}

func (w *wishing) theirs(at int, p *placed, by int64) {
	for _, t := range p.near {
		if w.hard > 0 && t.matches(&w.Snapshot, w.pod) {
			w.add(t.key, at, by*w.hard)
		}
	}
	for _, t := range p.wishes {
		if t.matches(&w.Snapshot, w.pod) {
			w.add(t.key, at, by*t.weight)
		}
	}
}

func (w *wishing) rate(nodes []int, scores []int64) {
	clear(scores)
	if len(w.sums) == 0 {
		return
	}
	for key, sums := range w.sums {
		of := w.domainsOf(key).of
		for i, at := range nodes {
			if of[at] != none {
				scores[i] += sums[of[at]]
			}
		}
	}
	lowest, highest := slices.Min(scores), slices.Max(scores)
	for i := range scores {
		if highest == lowest {
			scores[i] = 0
			continue
		}
		scores[i] = maxScore * (scores[i] - lowest) / (highest - lowest)
	}
}
