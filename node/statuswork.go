package node

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/apiserver/census"
	"kontiki/overlay"
)

// What a status tells of the work of nodes: pods, Nodes and the ways between them. It comes
// from this node's replica, ring and kernel: no other node and no quorum is asked.

// PodCount is how many pods there are. Those that have ended are not among Running and All.
type PodCount struct {
	census.Pods
	// Waiting are those that no node was found for yet.
	Waiting int `json:"waiting,omitempty"`
}

// MemberWork is what a member does for the cluster's users.
type MemberWork struct {
	// Ready is what its Node says, in kubectl's words; empty if it has none.
	Ready string `json:"ready,omitempty"`
	// Pods are those on it; nil if it has no Node.
	Pods *census.Pods `json:"pods,omitempty"`
	// Subnets are those of its pods, as they were granted.
	Subnets []string `json:"subnets,omitempty"`
	// Route is whether packets of this node get to its pods: own, yes, or why not. It is
	// empty if it has no subnet, or this node has no pod network yet.
	Route string `json:"route,omitempty"`

	message string // of the Node's condition Ready
}

// waitingLong is after what time a pod that has no node is worth a word.
const waitingLong = time.Minute

// ways are how this node gets to the pods of others; nil while it has no pod network.
func (n *node) ways() ([]overlay.LeaseReport, error) {
	network := n.network.Load()
	if network == nil {
		return nil, nil
	}
	return network.Ways()
}

// addWork puts what Nodes, pods and ways tell beside the members.
func (s *Status) addWork(pods census.Count, nodes map[string]census.Node, ways []overlay.LeaseReport) {
	s.Pods = &PodCount{Pods: pods.Pods, Waiting: pods.Waiting}
	for i := range s.Members {
		m := &s.Members[i]
		for _, w := range ways {
			if w.NodeID == m.ID {
				m.Route = w.Used
			}
		}
		node, known := nodes[m.Name]
		if !known || m.Name == "" {
			continue
		}
		on := pods.On[m.Name]
		m.Ready, m.message, m.Pods, m.Subnets = readiness(node), node.Message, &on, node.Subnets
	}
}

// readiness is the column STATUS of kubectl get nodes.
func readiness(n census.Node) string {
	word := "NotReady"
	if n.Ready == corev1.ConditionTrue {
		word = "Ready"
	}
	if n.Cordoned {
		word += ",SchedulingDisabled"
	}
	return word
}

// diagnoseWork says in words what is wrong with the work of nodes that answer; what is to
// be said of others is said already.
func diagnoseWork(s Status, pods census.Count, now time.Time) (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, m := range s.Members {
		if m.Health != "alive" {
			continue
		}
		name := cmp.Or(m.Name, m.ID)
		if strings.HasPrefix(m.Ready, "NotReady") {
			say("node %s answers, but is not Ready: %s; see kontiki kubectl describe node %s", name, cmp.Or(m.message, "it has not said yet why"), name)
		}
		if m.Ready != "" && len(m.Subnets) == 0 {
			say("node %s has no subnet for its pods: the leader grants one as soon as there is a quorum; if that lasts, the range of pods is used up (see kontiki kubectl describe node %s)", name, name)
		}
		if why, no := strings.CutPrefix(m.Route, "no: "); no && len(m.Subnets) > 0 {
			say("pods of node %s (%s) are not reached from this node: %s; see kontiki net status", name, strings.Join(m.Subnets, ", "), why)
		}
	}
	if waits := now.Sub(pods.Earliest); pods.Waiting > 0 && waits > waitingLong {
		say("%s no node, the first since %s: kontiki kubectl get pods -A --field-selector spec.nodeName= lists them, and kontiki kubectl describe pod says why",
			plural(pods.Waiting, "pod has", "pods have"), pods.Earliest.UTC().Format(time.RFC3339))
	}
	return out
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}
