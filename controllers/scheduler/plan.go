package scheduler

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// decision is where a pod goes, or why it goes nowhere.
type decision struct {
	pod     *corev1.Pod
	node    string // empty: no node is feasible
	message string // why not, in upstream's words
	helps   event  // what may make another attempt succeed
}

// cycle is one pod being planned.
type cycle struct {
	placed
	snapshot *Snapshot
}

// filterPlugin rules nodes out. prepare looks at the pod once and returns nil if
// the plugin has nothing to say about it; the check returns reasons, none if the
// node will do.
type filterPlugin struct {
	name    string
	helps   event // which events can turn its no into a yes
	prepare func(*cycle) func(*nodeInfo) []string
}

// scorePlugin rates feasible nodes from 0 to maxScore. prepare returns the
// scores of the nodes in order, or nil if it has nothing to say.
type scorePlugin struct {
	name   string
	weight int64
	score  func(*cycle, []*nodeInfo) []int64
}

const maxScore = 100

func filters() []filterPlugin {
	return []filterPlugin{
		nodeUnschedulable(), nodeName(), taintToleration(), nodeAffinity(), nodePorts(),
		nodeResourcesFit(), podTopologySpread(), interPodAffinity(),
	}
}

func scorers() []scorePlugin {
	return []scorePlugin{
		{"TaintToleration", 3, scoreTaints},
		{"NodeAffinity", 2, scoreNodeAffinity},
		{"PodTopologySpread", 2, scoreSpread},
		{"InterPodAffinity", 2, scorePodAffinity},
		{"NodeResourcesFit", 1, scoreLeastAllocated},
		{"NodeResourcesBalancedAllocation", 1, scoreBalanced},
	}
}

// plan places pods in order, each on top of those before it.
func plan(s Snapshot, pods []*corev1.Pod) []decision {
	s.nodes = slices.Clone(s.nodes)
	all, rated := filters(), scorers()
	decisions := make([]decision, 0, len(pods))
	for _, pod := range pods {
		c := &cycle{placed: place(pod), snapshot: &s}
		feasible, no := feasibleNodes(c, all)
		if len(feasible) == 0 {
			decisions = append(decisions, decision{pod: pod, message: no.message(len(s.nodes)), helps: no.helps})
			continue
		}
		chosen := best(c, rated, feasible)
		decisions = append(decisions, decision{pod: pod, node: s.nodes[chosen].node.Name})
		assumed := c.placed
		s.nodes[chosen] = s.nodes[chosen].with(assumed)
		s.start = (chosen + 1) % len(s.nodes)
	}
	return decisions
}

// refusals counts why nodes were ruled out.
type refusals struct {
	reasons map[string]int
	helps   event
}

// message is upstream's: reasons with counts, sorted as text.
func (r refusals) message(nodes int) string {
	if nodes == 0 {
		return "no nodes available to schedule pods"
	}
	var texts []string
	for reason, n := range r.reasons {
		texts = append(texts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(texts)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(texts, ", "))
}

// feasibleNodes returns indexes into the snapshot, in search order, and what ruled
// the other nodes out. In large clusters it stops at enough of them.
func feasibleNodes(c *cycle, plugins []filterPlugin) ([]int, refusals) {
	no := refusals{reasons: map[string]int{}, helps: nodeAdded}
	type check struct {
		helps event
		do    func(*nodeInfo) []string
	}
	var checks []check
	for _, p := range plugins {
		if do := p.prepare(c); do != nil {
			checks = append(checks, check{p.helps, do})
		}
	}
	nodes := c.snapshot.nodes
	var feasible []int
search:
	for i := range nodes {
		at := (c.snapshot.start + i) % len(nodes)
		for _, check := range checks {
			if reasons := check.do(nodes[at]); len(reasons) > 0 {
				for _, reason := range reasons {
					no.reasons[reason]++
				}
				no.helps |= check.helps
				continue search
			}
		}
		if feasible = append(feasible, at); len(feasible) >= enough(len(nodes)) {
			break
		}
	}
	return feasible, no
}

// enough is how many feasible nodes are compared: all up to 100, then a share
// that shrinks with the cluster, as upstream's percentageOfNodesToScore.
func enough(nodes int) int {
	if nodes <= 100 {
		return nodes
	}
	share := max(50-nodes/125, 5)
	return max(nodes*share/100, 100)
}

// best is the node with the highest weighted score. Among equals the one with the
// fewest pods wins, then the first in search order.
func best(c *cycle, plugins []scorePlugin, feasible []int) int {
	if len(feasible) == 1 {
		return feasible[0]
	}
	infos := make([]*nodeInfo, len(feasible))
	for i, at := range feasible {
		infos[i] = c.snapshot.nodes[at]
	}
	totals := make([]int64, len(feasible))
	for _, p := range plugins {
		for i, score := range p.score(c, infos) {
			totals[i] += p.weight * score
		}
	}
	top := 0
	for i := range totals {
		if totals[i] > totals[top] || totals[i] == totals[top] && len(infos[i].pods) < len(infos[top].pods) {
			top = i
		}
	}
	return feasible[top]
}

// normalize scales scores so that the highest becomes maxScore; reverse makes it 0.
func normalize(scores []int64, reverse bool) []int64 {
	highest := int64(0)
	for _, s := range scores {
		highest = max(highest, s)
	}
	for i, s := range scores {
		if highest > 0 {
			s = maxScore * s / highest
		}
		if reverse {
			s = maxScore - s
		}
		scores[i] = s
	}
	return scores
}
