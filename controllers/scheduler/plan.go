package scheduler

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// decision is where a pod goes, or why it goes nowhere.
type decision struct {
	*placed
	node    string     // empty: no node is feasible
	message string     // why not, in upstream's words
	helps   help       // what may make another attempt succeed
	room    room       // what is done to make room
	volumes podVolumes // what has to be bound before the pod is

	// For metrics, of the scheduler: when planning began, when the pod was first seen, and
	// how often it was tried.
	began, since time.Time
	attempts     int
}

// plan places pods in order, each on top of those before it.
func plan(s Snapshot, profiles profiles, pods []*placed) []decision {
	p := newPlanner(s)
	decisions := make([]decision, 0, len(pods))
	for _, pod := range pods {
		decisions = append(decisions, p.decide(pod, profiles.of(pod.pod)))
	}
	return decisions
}

// planner is a snapshot that follows what is planned on it.
type planner struct {
	Snapshot
	at     map[string]int      // where a node is in nodes; made when first asked for
	cycles map[string][]*cycle // by shape: pods that planning cannot tell apart share one
}

func newPlanner(s Snapshot) *planner {
	s.nodes = slices.Clone(s.nodes)
	if s.start >= len(s.nodes) {
		s.start = 0
	}
	if s.nominated = maps.Clone(s.nominated); s.nominated == nil {
		s.nominated = map[string][]*placed{}
	}
	s.volumes.assumed = s.volumes.assumed.clone()
	if s.domains == nil {
		s.domains = map[string]*domains{}
	}
	return &planner{Snapshot: s, cycles: map[string][]*cycle{}}
}

func (p *planner) decide(pod *placed, with *profile) decision {
	if len(p.nodes) == 0 {
		return decision{placed: pod, message: "no nodes available to schedule pods", helps: help{events: nodeAdded}}
	}
	c := p.cycleOf(pod, with)
	if c.rejected != "" {
		return p.reject(c, pod)
	}
	if at, ok := p.index(p.nomination(pod)); ok && c.mayUse(at) && c.verdict(pod, at) == nil {
		return p.settle(pod, at) // room was made for it there
	}
	feasible, no := c.feasible(pod)
	if len(feasible) == 0 {
		d := decision{placed: pod, helps: no.helps(pod)}
		d.room = p.makeRoom(c, pod, no)
		d.message = join(no.message(), d.room.message)
		if d.room.node != "" {
			p.nominate(pod, d.room.node)
		}
		return d
	}
	return p.settle(pod, c.best(feasible))
}

// settle puts the pod on a node for those that are planned after it.
func (p *planner) settle(pod *placed, at int) decision {
	name := p.nodes[at].node.Name
	p.unnominate(pod)
	p.nodes[at] = p.nodes[at].with(pod)
	p.moved(at, pod, 1)
	p.start = (at + 1) % len(p.nodes)
	return decision{placed: pod, node: name, volumes: p.takeVolumes(pod.pod, p.nodes[at].node)}
}

// reject is for a pod that cannot go anywhere until its volumes are there.
func (p *planner) reject(c *cycle, pod *placed) decision {
	d := decision{placed: pod, helps: help{pod: pod, events: storageChanged}}
	d.room = p.makeRoom(c, pod, &refusals{cycle: c})
	d.message = join(fmt.Sprintf("0/%d nodes are available: %s.", len(p.nodes), c.rejected), d.room.message)
	return d
}

// moved tells all cycles that a pod came to a node or left it.
func (p *planner) moved(at int, pod *placed, by int) {
	for _, same := range p.cycles {
		for _, c := range same {
			c.moved(at, pod, by)
		}
	}
}

// nominate reserves room for a pod; one node at a time, the last counts.
func (p *planner) nominate(pod *placed, node string) {
	p.unnominate(pod)
	p.nominated[node] = append(slices.Clip(p.nominated[node]), pod)
}

func (p *planner) unnominate(pod *placed) {
	for node, pods := range p.nominated {
		if at := slices.IndexFunc(pods, func(n *placed) bool { return n.pod.UID == pod.pod.UID }); at >= 0 {
			p.nominated[node] = slices.Delete(slices.Clone(pods), at, at+1)
		}
	}
}

// nomination is the node at which room is being made for the pod.
func (p *planner) nomination(pod *placed) string {
	for node, pods := range p.nominated {
		if slices.ContainsFunc(pods, func(n *placed) bool { return n.pod.UID == pod.pod.UID }) {
			return node
		}
	}
	return ""
}

func (p *planner) index(name string) (int, bool) {
	if name == "" {
		return 0, false
	}
	if p.at == nil {
		p.at = make(map[string]int, len(p.nodes))
		for i, n := range p.nodes {
			p.at[n.node.Name] = i
		}
	}
	at, ok := p.at[name]
	return at, ok
}

// domains are the values of one node label, numbered.
type domains struct {
	of    []int32 // by node; none where it lacks the label
	count int
}

const none = int32(-1)

func (p *planner) domainsOf(key string) *domains {
	if d, ok := p.domains[key]; ok {
		return d
	}
	d := &domains{of: make([]int32, len(p.nodes))}
	numbers := map[string]int32{}
	for i, n := range p.nodes {
		value, ok := n.node.Labels[key]
		if !ok {
			d.of[i] = none
			continue
		}
		number, known := numbers[value]
		if !known {
			number = int32(len(numbers))
			numbers[value] = number
		}
		d.of[i] = number
	}
	d.count = len(numbers)
	p.domains[key] = d
	return d
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

// cycleOf is the cycle of pods like this one.
func (p *planner) cycleOf(pod *placed, with *profile) *cycle {
	for _, c := range p.cycles[pod.shape] {
		if c.profile == with && sameNeeds(c.placed, pod) {
			return c
		}
	}
	c := newCycle(p, pod, with)
	p.cycles[pod.shape] = append(p.cycles[pod.shape], c)
	return c
}

// sameNeeds says whether planning can tell two pods of one shape apart. What it
// does not name may differ: names, commands, environment, volumes that are on
// every node.
func sameNeeds(a, b *placed) bool {
	x, y := &a.pod.Spec, &b.pod.Spec
	return a.priority == b.priority && a.requests.equal(b.requests) && a.scoring.equal(b.scoring) &&
		slices.Equal(a.ports, b.ports) && x.NodeName == y.NodeName &&
		reflect.DeepEqual(x.NodeSelector, y.NodeSelector) && reflect.DeepEqual(x.Affinity, y.Affinity) &&
		reflect.DeepEqual(x.Tolerations, y.Tolerations) && reflect.DeepEqual(x.TopologySpreadConstraints, y.TopologySpreadConstraints) &&
		!claims(x) && !claims(y) && sameOwner(a.pod, b.pod) && sameImages(x, y)
}

// claims says whether the pod has volumes that may not be had on every node.
func claims(spec *corev1.PodSpec) bool {
	return slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.PersistentVolumeClaim != nil || v.Ephemeral != nil })
}

func sameOwner(a, b *corev1.Pod) bool {
	x, y := metav1.GetControllerOfNoCopy(a), metav1.GetControllerOfNoCopy(b)
	if x == nil || y == nil {
		return x == y
	}
	return x.UID == y.UID
}

func sameImages(x, y *corev1.PodSpec) bool {
	image := func(a, b corev1.Container) bool { return a.Image == b.Image }
	return slices.EqualFunc(x.Containers, y.Containers, image) && slices.EqualFunc(x.InitContainers, y.InitContainers, image)
}
