package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

// verdict is why a node will not do.
type verdict struct {
	reasons []string
	// final means that no pod that leaves makes it fit, upstream's
	// UnschedulableAndUnresolvable.
	final  bool
	plugin int // which filter of the profile said so
}

// no and never are verdicts with one reason.
func no(reason string) *verdict    { return &verdict{reasons: []string{reason}} }
func never(reason string) *verdict { return &verdict{reasons: []string{reason}, final: true} }

// refusals are the nodes that were ruled out.
type refusals struct {
	cycle *cycle
	nodes []int
	why   []*verdict // of each of these nodes
}

func (r *refusals) add(at int, v *verdict) {
	r.nodes = append(r.nodes, at)
	r.why = append(r.why, v)
}

// message is upstream's: reasons with counts, sorted as text.
func (r *refusals) message() string {
	reasons := map[string]int{}
	for _, v := range r.why {
		for _, reason := range v.reasons {
			reasons[reason]++
		}
	}
	if left := len(r.cycle.nodes) - len(r.nodes); r.cycle.only != nil && left > 0 {
		reasons["node(s) didn't satisfy plugin(s) [NodeAffinity]"] = left
	}
	return histogram(len(r.cycle.nodes), reasons)
}

func histogram(nodes int, reasons map[string]int) string {
	texts := make([]string, 0, len(reasons))
	for reason, n := range reasons {
		texts = append(texts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(texts)
	message := fmt.Sprintf("0/%d nodes are available:", nodes)
	if len(texts) > 0 {
		message += " " + strings.Join(texts, ", ") + "."
	}
	return message
}

func join(message, more string) string {
	if more == "" {
		return message
	}
	return message + " " + more
}

// of is the verdict on a node, nil if it was not ruled out.
func (r *refusals) of(at int) *verdict {
	if i := slices.Index(r.nodes, at); i >= 0 {
		return r.why[i]
	}
	return nil
}

// helps is what the plugins that said no wait for.
func (r *refusals) helps(pod *placed) help {
	h := help{pod: pod, events: nodeAdded}
	var plugins uint64
	for _, v := range r.why {
		plugins |= 1 << v.plugin
	}
	for i, plugin := range r.cycle.profile.filters {
		if plugins&(1<<i) != 0 {
			h.events |= plugin.helps
			h.plugins = append(h.plugins, plugin)
		}
	}
	return h
}
