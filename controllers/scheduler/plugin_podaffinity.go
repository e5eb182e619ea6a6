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

// topology is a value of a node label.
type topology struct{ key, value string }

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
	helps := podAdded | podGone | nodeLabelsChanged
	return filterPlugin{"InterPodAffinity", helps, func(c *cycle) func(*nodeInfo) []string {
		near, far := c.near, c.far
		rejecting := rejectedBy(c)
		if len(near) == 0 && len(far) == 0 && len(rejecting) == 0 {
			return nil
		}
		nearCount, farCount := countTerms(c, near, true), countTerms(c, far, false)
		rejectingKeys := keysOf(rejecting)
		first := len(nearCount) == 0 && len(near) > 0 && matchesAll(c.snapshot, near, c.pod)
		return func(n *nodeInfo) []string {
			for _, t := range near {
				value, ok := n.node.Labels[t.key]
				if !ok || nearCount[topology{t.key, value}] == 0 && !first {
					return []string{"node(s) didn't match pod affinity rules"}
				}
			}
			for _, t := range far {
				if value, ok := n.node.Labels[t.key]; ok && farCount[topology{t.key, value}] > 0 {
					return []string{"node(s) didn't match pod anti-affinity rules"}
				}
			}
			for _, key := range rejectingKeys {
				if value, ok := n.node.Labels[key]; ok && rejecting[topology{key, value}] {
					return []string{"node(s) didn't satisfy existing pods anti-affinity rules"}
				}
			}
			return nil
		}
	}}
}

// rejectedBy are the places existing pods' anti-affinity keeps the pod out of.
func rejectedBy(c *cycle) map[topology]bool {
	places := map[topology]bool{}
	for _, n := range c.snapshot.nodes {
		for _, p := range n.picky {
			for _, t := range p.far {
				if value, ok := n.node.Labels[t.key]; ok && t.matches(c.snapshot, c.pod) {
					places[topology{t.key, value}] = true
				}
			}
		}
	}
	return places
}

// countTerms counts existing pods by place: those that match all terms together
// (affinity), or each by itself (anti-affinity).
func countTerms(c *cycle, terms []term, together bool) map[topology]int {
	if len(terms) == 0 {
		return nil
	}
	counts := map[topology]int{}
	for _, n := range c.snapshot.nodes {
		for _, p := range n.pods {
			if together && !matchesAll(c.snapshot, terms, p.pod) {
				continue
			}
			for _, t := range terms {
				if value, ok := n.node.Labels[t.key]; ok && (together || t.matches(c.snapshot, p.pod)) {
					counts[topology{t.key, value}]++
				}
			}
		}
	}
	return counts
}

func matchesAll(s *Snapshot, terms []term, pod *corev1.Pod) bool {
	for _, t := range terms {
		if !t.matches(s, pod) {
			return false
		}
	}
	return true
}

// hardWeight is what a required affinity of an existing pod adds for a pod it
// wants near, upstream's hardPodAffinityWeight.
const hardWeight = 1

func scorePodAffinity(c *cycle, nodes []*nodeInfo) []int64 {
	sums := map[topology]int64{}
	own := c.wishes
	for _, n := range c.snapshot.nodes {
		add := func(t term, weight int64, matched *corev1.Pod) {
			if value, ok := n.node.Labels[t.key]; ok && t.matches(c.snapshot, matched) {
				sums[topology{t.key, value}] += weight
			}
		}
		if len(own) > 0 {
			for _, p := range n.pods {
				for _, t := range own {
					add(t, t.weight, p.pod)
				}
			}
		}
		for _, p := range n.picky {
			for _, t := range p.near {
				add(t, hardWeight, c.pod)
			}
			for _, t := range p.wishes {
				add(t, t.weight, c.pod)
			}
		}
	}
	if len(sums) == 0 {
		return nil
	}
	return placeScores(sums, nodes)
}

// keysOf are the node labels that the places are values of.
func keysOf[V any](places map[topology]V) []string {
	var keys []string
	for where := range places {
		if !slices.Contains(keys, where.key) {
			keys = append(keys, where.key)
		}
	}
	return keys
}

func placeScores(sums map[topology]int64, nodes []*nodeInfo) []int64 {
	scores := make([]int64, len(nodes))
	lowest, highest := int64(0), int64(0)
	keys := keysOf(sums)
	for i, n := range nodes {
		for _, key := range keys {
			if value, ok := n.node.Labels[key]; ok {
				scores[i] += sums[topology{key, value}]
			}
		}
		if i == 0 {
			lowest, highest = scores[0], scores[0]
		}
		lowest, highest = min(lowest, scores[i]), max(highest, scores[i])
	}
	for i := range scores {
		if highest == lowest {
			scores[i] = 0
			continue
		}
		scores[i] = maxScore * (scores[i] - lowest) / (highest - lowest)
	}
	return scores
}
