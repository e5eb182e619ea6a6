package scheduler

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// spreadDefaults are the constraints of pods that have none of their own.
type spreadDefaults struct {
	system bool // upstream's: gently over hosts and zones
	list   []corev1.TopologySpreadConstraint
}

var systemDefaults = []corev1.TopologySpreadConstraint{
	{TopologyKey: corev1.LabelHostname, MaxSkew: 3, WhenUnsatisfiable: corev1.ScheduleAnyway},
	{TopologyKey: corev1.LabelTopologyZone, MaxSkew: 5, WhenUnsatisfiable: corev1.ScheduleAnyway},
}

// spread is one topology spread constraint with what is counted for it.
type spread struct {
	key        string
	maxSkew    int
	minDomains int
	selector   labels.Selector
	self       int // 1 if the pod counts itself

	*domains
	applies []bool          // by node: its pods count
	counts  []int           // matching pods by domain
	used    []bool          // by domain: it has a node that applies
	shapes  map[string]bool // whether pods of a shape match, as far as asked
	least   int             // of counts of used domains; unknown if negative
	distant int             // number of used domains

	met    []int // by domain: the last call of among that met it
	amongs int   // number of calls of among
}

// spreads are the pod's constraints of one kind, counted. A pod without any
// constraint gets the defaults, for what its Services and its owner select.
func (c *cycle) spreads(when corev1.UnsatisfiableConstraintAction, defaults spreadDefaults) []*spread {
	constraints, own := c.pod.Spec.TopologySpreadConstraints, true
	var selector labels.Selector
	if len(constraints) == 0 {
		constraints, own = defaults.list, !defaults.system
		if defaults.system {
			constraints = systemDefaults
		}
		if c.selector != nil && len(constraints) > 0 {
			selector = c.selector(c.pod)
		}
		if selector == nil || selector.Empty() {
			return nil
		}
	}
	var spreads []*spread
	for _, t := range constraints {
		if t.WhenUnsatisfiable != when {
			continue
		}
		s := &spread{key: t.TopologyKey, maxSkew: int(t.MaxSkew), minDomains: 1, selector: selector, domains: c.domainsOf(t.TopologyKey), shapes: map[string]bool{}}
		if s.selector == nil {
			s.selector = c.withMatchLabelKeys(selectorOrNothing(t.LabelSelector), t.MatchLabelKeys)
		}
		if t.MinDomains != nil {
			s.minDomains = int(*t.MinDomains)
		}
		if s.selector.Matches(labels.Set(c.pod.Labels)) {
			s.self = 1
		}
		s.applies = c.applies(t)
		spreads = append(spreads, s)
	}
	if own { // nodes that lack one of the labels do not take part
		for _, s := range spreads {
			for i := range s.applies {
				s.applies[i] = s.applies[i] && hasAll(spreads, i)
			}
		}
	}
	for _, s := range spreads {
		s.count(c)
	}
	return spreads
}

func hasAll(spreads []*spread, at int) bool {
	return !slices.ContainsFunc(spreads, func(s *spread) bool { return s.of[at] == none })
}

func (c *cycle) withMatchLabelKeys(selector labels.Selector, keys []string) labels.Selector {
	for _, key := range keys {
		if value, ok := c.pod.Labels[key]; ok {
			if r, err := labels.NewRequirement(key, "=", []string{value}); err == nil {
				selector = selector.Add(*r)
			}
		}
	}
	return selector
}

// applies says, by node, whether its pods count for a constraint.
func (c *cycle) applies(t corev1.TopologySpreadConstraint) []bool {
	honor := corev1.NodeInclusionPolicyHonor
	affinity := (t.NodeAffinityPolicy == nil || *t.NodeAffinityPolicy == honor) && (len(c.pod.Spec.NodeSelector) > 0 || requiredNodes(c.pod) != nil)
	taints := t.NodeTaintsPolicy != nil && *t.NodeTaintsPolicy == honor
	required := nodeaffinity.GetRequiredNodeAffinity(c.pod)
	applies := make([]bool, len(c.nodes))
	for i, n := range c.nodes {
		applies[i] = true
		if affinity {
			match, err := required.Match(n.node)
			applies[i] = match && err == nil
		}
		if taints && untolerated(c.pod, n.node, repels) {
			applies[i] = false
		}
	}
	return applies
}

func (s *spread) count(c *cycle) {
	s.counts, s.used, s.least = make([]int, s.domains.count), make([]bool, s.domains.count), -1
	for at, n := range c.nodes {
		domain := s.of[at]
		if !s.applies[at] || domain == none {
			continue
		}
		if !s.used[domain] {
			s.used[domain] = true
			s.distant++
		}
		s.counts[domain] += s.matching(c.pod.Namespace, n.groups)
	}
}

// matching is how many pods of these groups the constraint selects.
func (s *spread) matching(namespace string, groups []group) int {
	count := 0
	for _, g := range groups {
		if s.selects(namespace, g.shape, g.pod) {
			count += g.count
		}
	}
	return count
}

func (s *spread) selects(namespace, shape string, pod *corev1.Pod) bool {
	yes, known := s.shapes[shape]
	if !known {
		yes = pod.Namespace == namespace && s.selector.Matches(labels.Set(pod.Labels))
		s.shapes[shape] = yes
	}
	return yes
}

func (s *spread) moved(namespace string, at int, pod *placed, by int) {
	domain := s.of[at]
	if !s.applies[at] || domain == none || pod.pod.DeletionTimestamp != nil || !s.selects(namespace, pod.shape, pod.pod) {
		return
	}
	s.counts[domain] += by
	s.least = -1
}

// fewest is the count of the emptiest domain.
func (s *spread) fewest() int {
	if s.distant < s.minDomains {
		return 0
	}
	if s.least < 0 {
		s.least = math.MaxInt
		for domain, n := range s.counts {
			if s.used[domain] {
				s.least = min(s.least, n)
			}
		}
		if s.distant == 0 {
			s.least = 0
		}
	}
	return s.least
}

func podTopologySpread(defaults spreadDefaults) filterPlugin {
	return filterPlugin{
		name: "PodTopologySpread", helps: podGone | podAdded | podLabelsChanged | nodeAdded | nodeGone | nodeLabelsChanged | nodeTaintsChanged,
		hint: spreadHint(defaults),
		prepare: func(c *cycle) *filter {
			spreads := c.spreads(corev1.DoNotSchedule, defaults)
			if len(spreads) == 0 {
				return nil
			}
			missing := never("node(s) didn't match pod topology spread constraints (missing required label)")
			skewed := no("node(s) didn't match pod topology spread constraints")
			return &filter{
				check: func(at int, _ *nodeInfo) *verdict {
					for _, s := range spreads {
						domain := s.of[at]
						if domain == none {
							return missing
						}
						if s.counts[domain]+s.self-s.fewest() > s.maxSkew {
							return skewed
						}
					}
					return nil
				},
				moved: func(at int, pod *placed, by int) {
					for _, s := range spreads {
						s.moved(c.pod.Namespace, at, pod, by)
					}
				},
			}
		},
	}
}

// spreadHint lets pods try again when a pod that one of their constraints selects
// comes or goes, or a node that has the labels changes.
func spreadHint(defaults spreadDefaults) hint {
	return func(p *placed, e change) bool {
		constraints := p.pod.Spec.TopologySpreadConstraints
		if len(constraints) == 0 {
			return len(defaults.list) > 0
		}
		if e.pod != nil {
			return e.pod.pod.Namespace == p.pod.Namespace && slices.ContainsFunc(constraints, func(t corev1.TopologySpreadConstraint) bool {
				return matchesLabels(t.LabelSelector, e.pod.pod, e.before)
			})
		}
		return !slices.ContainsFunc(constraints, func(t corev1.TopologySpreadConstraint) bool { return !e.hasLabel(t.TopologyKey) })
	}
}

func matchesLabels(of *metav1.LabelSelector, pods ...*corev1.Pod) bool {
	selector := selectorOrNothing(of)
	return slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return pod != nil && selector.Matches(labels.Set(pod.Labels)) })
}

// scoreSpread prefers domains with fewer matching pods. A constraint weighs the
// more, the more domains there are, since pods per domain get fewer.
func scoreSpread(defaults spreadDefaults) func(*cycle) *scorer {
	return func(c *cycle) *scorer {
		spreads := c.spreads(corev1.ScheduleAnyway, defaults)
		if len(spreads) == 0 {
			return nil
		}
		strict := len(c.pod.Spec.TopologySpreadConstraints) > 0 || !defaults.system
		weights := make([]float64, len(spreads))
		costs := make([]float64, 0, len(c.nodes))
		ignored := make([]bool, len(c.nodes)) // nodes take no part that lack one of the labels
		for at := range ignored {
			ignored[at] = strict && !hasAll(spreads, at)
		}
		return &scorer{
			each: func(nodes []int, scores []int64) {
				for i, s := range spreads {
					weights[i] = math.Log(float64(s.among(nodes, ignored) + 2))
				}
				costs = costs[:0]
				for _, at := range nodes {
					cost := -1.0
					if !ignored[at] {
						cost = costAt(spreads, weights, at)
					}
					costs = append(costs, cost)
				}
				spreadScores(costs, scores)
			},
			moved: func(at int, pod *placed, by int) {
				for _, s := range spreads {
					s.moved(c.pod.Namespace, at, pod, by)
				}
			},
		}
	}
}

// among is how many domains the nodes are in.
func (s *spread) among(nodes []int, ignored []bool) int {
	if s.met == nil {
		s.met = make([]int, s.domains.count+1) // the last stands for nodes without the label
	}
	s.amongs++
	count := 0
	for _, at := range nodes {
		domain := s.of[at]
		if domain == none {
			domain = int32(s.domains.count)
		}
		if s.met[domain] != s.amongs && !ignored[at] {
			s.met[domain] = s.amongs
			count++
		}
	}
	return count
}

func costAt(spreads []*spread, weights []float64, at int) float64 {
	cost := 0.0
	for i, s := range spreads {
		if domain := s.of[at]; domain != none {
			cost += float64(s.counts[domain])*weights[i] + float64(s.maxSkew-1)
		}
	}
	return math.Round(cost)
}

// spreadScores turns costs into scores; a negative cost stands for a node that
// takes no part.
func spreadScores(costs []float64, scores []int64) {
	lowest, highest := int64(math.MaxInt64), int64(0)
	for _, cost := range costs {
		if cost >= 0 {
			lowest, highest = min(lowest, int64(cost)), max(highest, int64(cost))
		}
	}
	for i, cost := range costs {
		switch {
		case cost < 0:
			scores[i] = 0
		case highest == 0:
			scores[i] = maxScore
		default:
			scores[i] = maxScore * (highest + lowest - int64(cost)) / highest
		}
	}
}
