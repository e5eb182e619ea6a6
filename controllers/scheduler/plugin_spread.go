package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// spread is one topology spread constraint, ready to be counted.
type spread struct {
	key          string
	maxSkew      int
	minDomains   int
	selector     labels.Selector
	affinity     bool // nodeAffinityPolicy: Honor
	taints       bool // nodeTaintsPolicy: Honor
	requireLabel bool // nodes without the key do not take part

	selected map[string]bool // by shape, as far as asked
}

// spreads are the pod's constraints of one kind. A pod without any constraint
// gets upstream's system defaults: spread gently over hosts and zones what is
// selected by its Services and its owner.
func (c *cycle) spreads(when corev1.UnsatisfiableConstraintAction) []spread {
	if len(c.pod.Spec.TopologySpreadConstraints) == 0 {
		if when != corev1.ScheduleAnyway || c.snapshot.selector == nil {
			return nil
		}
		selector := c.snapshot.selector(c.pod)
		if selector == nil || selector.Empty() {
			return nil
		}
		return []spread{
			{key: corev1.LabelHostname, maxSkew: 3, minDomains: 1, selector: selector, affinity: true, selected: map[string]bool{}},
			{key: corev1.LabelTopologyZone, maxSkew: 5, minDomains: 1, selector: selector, affinity: true, selected: map[string]bool{}},
		}
	}
	var spreads []spread
	for _, t := range c.pod.Spec.TopologySpreadConstraints {
		if t.WhenUnsatisfiable != when {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
		if err != nil {
			continue // the API has refused such a pod
		}
		s := spread{
			key: t.TopologyKey, maxSkew: int(t.MaxSkew), minDomains: 1, selector: c.withMatchLabelKeys(selector, t.MatchLabelKeys),
			affinity:     t.NodeAffinityPolicy == nil || *t.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor,
			taints:       t.NodeTaintsPolicy != nil && *t.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
			requireLabel: true, selected: map[string]bool{},
		}
		if t.MinDomains != nil {
			s.minDomains = int(*t.MinDomains)
		}
		spreads = append(spreads, s)
	}
	return spreads
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

// counts says whether the pods of a node count for a constraint.
func (s spread) counts(c *cycle, n *nodeInfo, required nodeaffinity.RequiredNodeAffinity) bool {
	if s.affinity {
		if match, err := required.Match(n.node); !match || err != nil {
			return false
		}
	}
	return !s.taints || !untolerated(c.pod, n.node, repels)
}

func (s spread) matching(c *cycle, n *nodeInfo) int {
	count := 0
	for _, g := range n.groups {
		yes, known := s.selected[g.shape]
		if !known {
			yes = g.pod.Namespace == c.pod.Namespace && s.selector.Matches(labels.Set(g.pod.Labels))
			s.selected[g.shape] = yes
		}
		if yes {
			count += g.count
		}
	}
	return count
}

func hasAll(n *nodeInfo, spreads []spread) bool {
	for _, s := range spreads {
		if _, ok := n.node.Labels[s.key]; !ok && s.requireLabel {
			return false
		}
	}
	return true
}

func podTopologySpread() filterPlugin {
	return filterPlugin{"PodTopologySpread", podGone | podAdded | nodeLabelsChanged | nodeTaintsChanged, func(c *cycle) func(*nodeInfo) []string {
		spreads := c.spreads(corev1.DoNotSchedule)
		if len(spreads) == 0 {
			return nil
		}
		domains := countDomains(c, spreads)
		return func(n *nodeInfo) []string {
			for i, s := range spreads {
				domain, ok := n.node.Labels[s.key]
				if !ok {
					return []string{"node(s) didn't match pod topology spread constraints (missing required label)"}
				}
				self := 0
				if s.selector.Matches(labels.Set(c.pod.Labels)) {
					self = 1
				}
				if domains[i].count[domain]+self-domains[i].fewest(s.minDomains) > s.maxSkew {
					return []string{"node(s) didn't match pod topology spread constraints"}
				}
			}
			return nil
		}
	}}
}

// domainCount is how many matching pods each domain of a topology has.
type domainCount struct {
	count map[string]int
	least int
}

func (d *domainCount) fewest(minDomains int) int {
	if len(d.count) < minDomains {
		return 0
	}
	return d.least
}

func countDomains(c *cycle, spreads []spread) []domainCount {
	required := nodeaffinity.GetRequiredNodeAffinity(c.pod)
	domains := make([]domainCount, len(spreads))
	for i := range domains {
		domains[i].count = map[string]int{}
	}
	for _, n := range c.snapshot.nodes {
		if !hasAll(n, spreads) {
			continue
		}
		for i, s := range spreads {
			if s.counts(c, n, required) {
				domains[i].count[n.node.Labels[s.key]] += s.matching(c, n)
			}
		}
	}
	for i := range domains {
		domains[i].least = math.MaxInt
		for _, n := range domains[i].count {
			domains[i].least = min(domains[i].least, n)
		}
		if len(domains[i].count) == 0 {
			domains[i].least = 0
		}
	}
	return domains
}

// scoreSpread prefers domains with fewer matching pods. A constraint weighs the
// more, the more domains there are, since pods per domain get fewer.
func scoreSpread(c *cycle, nodes []*nodeInfo) []int64 {
	spreads := c.spreads(corev1.ScheduleAnyway)
	if len(spreads) == 0 {
		return nil
	}
	required := nodeaffinity.GetRequiredNodeAffinity(c.pod)
	counts := make([]map[string]int, len(spreads))
	for i, s := range spreads {
		counts[i] = map[string]int{}
		for _, n := range nodes {
			if domain, ok := n.node.Labels[s.key]; ok && hasAll(n, spreads) {
				counts[i][domain] = 0
			}
		}
	}
	for _, n := range c.snapshot.nodes {
		if !hasAll(n, spreads) {
			continue
		}
		for i, s := range spreads {
			domain, ok := n.node.Labels[s.key]
			if _, wanted := counts[i][domain]; ok && wanted && s.counts(c, n, required) {
				counts[i][domain] += s.matching(c, n)
			}
		}
	}
	return spreadScores(spreads, counts, nodes)
}

func spreadScores(spreads []spread, counts []map[string]int, nodes []*nodeInfo) []int64 {
	const ignored = -1
	scores := make([]int64, len(nodes))
	lowest, highest := int64(math.MaxInt64), int64(0)
	for j, n := range nodes {
		if !hasAll(n, spreads) {
			scores[j] = ignored
			continue
		}
		cost := 0.0
		for i, s := range spreads {
			if domain, ok := n.node.Labels[s.key]; ok {
				weight := math.Log(float64(len(counts[i]) + 2))
				cost += float64(counts[i][domain])*weight + float64(s.maxSkew-1)
			}
		}
		scores[j] = int64(math.Round(cost))
		lowest, highest = min(lowest, scores[j]), max(highest, scores[j])
	}
	for j := range scores {
		switch {
		case scores[j] == ignored:
			scores[j] = 0
		case highest == 0:
			scores[j] = maxScore
		default:
			scores[j] = maxScore * (highest + lowest - scores[j]) / highest
		}
	}
	return scores
}
