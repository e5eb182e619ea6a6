package scheduler

import (
	"cmp"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// room is what upstream's DefaultPreemption decides for a pod that fits nowhere.
type room struct {
	sought  bool      // it was looked for: the pod fits nowhere
	node    string    // where room is made; empty: nowhere
	victims []*placed // who leaves, most important first
	// yield are less important pods for which room is being made at that node: they
	// have to look for another.
	yield []*placed
	// give says that the pod's own nomination, if it has one, helps it no longer.
	give    bool
	message string // why no room is made
}

// budget is a PodDisruptionBudget, ready to be matched.
type budget struct {
	namespace string
	selector  labels.Selector
	allowed   int32
	disrupted map[string]metav1.Time
}

func newBudget(b *policyv1.PodDisruptionBudget) (budget, bool) {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil || selector.Empty() {
		return budget{}, false // matches nothing here, as upstream
	}
	return budget{b.Namespace, selector, b.Status.DisruptionsAllowed, b.Status.DisruptedPods}, true
}

func (b budget) covers(pod *corev1.Pod) bool {
	if b.namespace != pod.Namespace || !b.selector.Matches(labels.Set(pod.Labels)) {
		return false
	}
	_, counted := b.disrupted[pod.Name]
	return !counted
}

// candidate is a node where the pod would fit without the victims.
type candidate struct {
	at        int
	victims   []*placed
	violating int // how many victims a budget does not allow to go
}

// makeRoom looks for the node where it costs least to let the pod in.
func (p *planner) makeRoom(c *cycle, pod *placed, no *refusals) room {
	r := p.seekRoom(c, pod, no)
	r.sought = true
	return r
}

func (p *planner) seekRoom(c *cycle, pod *placed, no *refusals) room {
	if why := p.notEligible(pod, no); why != "" {
		return room{message: "preemption: " + why}
	}
	candidates, reasons := p.candidates(c, pod, no)
	if len(candidates) == 0 {
		return room{give: true, message: "preemption: " + histogram(len(p.nodes), reasons)}
	}
	best := candidates[0]
	for _, other := range candidates[1:] {
		if better(other, best) {
			best = other
		}
	}
	name := p.nodes[best.at].node.Name
	r := room{node: name, victims: best.victims}
	for _, other := range p.nominated[name] {
		if other.priority < pod.priority {
			r.yield = append(r.yield, other)
		}
	}
	for _, other := range r.yield {
		p.unnominate(other)
	}
	return r
}

// notEligible says why the pod may not make others leave.
func (p *planner) notEligible(pod *placed, no *refusals) string {
	if policy := pod.pod.Spec.PreemptionPolicy; policy != nil && *policy == corev1.PreemptNever {
		return "not eligible due to preemptionPolicy=Never."
	}
	at, ok := p.index(p.nomination(pod))
	if !ok {
		return ""
	}
	if v := no.of(at); v != nil && v.final {
		return "" // what leaves there does not help it any more
	}
	for _, other := range p.nodes[at].pods {
		if other.priority < pod.priority && other.preempted {
			return "not eligible due to a terminating pod on the nominated node."
		}
	}
	return ""
}

// candidates tries the nodes on which leaving pods may help, up to a tenth of them
// and at least 100; reasons tell why the others do not help.
func (p *planner) candidates(c *cycle, pod *placed, no *refusals) ([]candidate, map[string]int) {
	reasons := map[string]int{}
	var nodes []int
	for i, v := range no.why {
		if !v.final {
			nodes = append(nodes, no.nodes[i])
		}
	}
	var found []candidate
	harmless := false
	tried := 0
	want := max(len(nodes)*c.profile.candidatePercent/100, c.profile.candidateMinimum)
	for _, at := range nodes {
		tried++
		victims, why := p.victims(c, pod, at)
		if why != nil {
			for _, reason := range why.reasons {
				reasons[reason]++
			}
			continue
		}
		found = append(found, victims)
		harmless = harmless || victims.violating == 0
		if harmless && len(found) >= want {
			break
		}
	}
	if rest := len(p.nodes) - tried; rest > 0 {
		reasons["Preemption is not helpful for scheduling"] += rest
	}
	return found, reasons
}

// victims are the fewest pods that must leave a node to let the pod in. All less
// important ones are thought away; then each comes back, if the pod still fits:
// first those a budget keeps, and the more important before the others.
func (p *planner) victims(c *cycle, pod *placed, at int) (candidate, *verdict) {
	here := p.nodes[at]
	var less []*placed
	for _, other := range here.pods {
		if other.priority < pod.priority {
			less = append(less, other)
		}
	}
	if len(less) == 0 {
		return candidate{}, never("No preemption victims found for incoming pod")
	}
	slices.SortFunc(less, importance)
	away := map[*placed]bool{}
	leave := func(other *placed, by int) {
		away[other] = by < 0
		if by < 0 {
			here = here.without(other.pod.UID)
		} else {
			here = here.with(other)
		}
		c.filtersMoved(at, other, by)
	}
	fits := func() *verdict {
		return c.withNominated(pod, at, here, func(at int) *verdict { return c.checkAs(at, here) })
	}
	defer func() {
		for _, other := range less {
			if away[other] {
				c.filtersMoved(at, other, 1)
			}
		}
	}()
	for _, other := range less {
		leave(other, -1)
	}
	if why := fits(); why != nil {
		return candidate{}, why
	}
	found := candidate{at: at}
	kept, free := p.guarded(less)
	for i, other := range append(kept, free...) {
		leave(other, 1)
		if fits() == nil {
			continue
		}
		leave(other, -1)
		found.victims = append(found.victims, other)
		if i < len(kept) {
			found.violating++
		}
	}
	slices.SortFunc(found.victims, importance)
	return found, nil
}

// importance orders pods: by priority, then those that run longer first.
func importance(a, b *placed) int {
	return cmp.Or(cmp.Compare(b.priority, a.priority), started(a).Compare(started(b).Time), cmp.Compare(a.pod.UID, b.pod.UID))
}

// started is when the pod began to run; one that has not yet counts as starting last.
func started(p *placed) metav1.Time {
	if p.pod.Status.StartTime != nil {
		return *p.pod.Status.StartTime
	}
	return metav1.Unix(math.MaxInt32, 0)
}

// guarded parts pods that no budget allows to go from the others, in order.
func (p *planner) guarded(pods []*placed) (kept, free []*placed) {
	allowed := make([]int32, len(p.budgets))
	for i, b := range p.budgets {
		allowed[i] = b.allowed
	}
	for _, other := range pods {
		over := false
		for i, b := range p.budgets {
			if b.covers(other.pod) {
				allowed[i]--
				over = over || allowed[i] < 0
			}
		}
		if over {
			kept = append(kept, other)
		} else {
			free = append(free, other)
		}
	}
	return kept, free
}

// better orders candidates as upstream: fewer broken budgets, a less important most
// important victim, a lower sum of priorities, fewer victims, and then the one whose
// most important victims began to run last. Among equals the first stays.
func better(a, b candidate) bool {
	if len(a.victims) == 0 || len(b.victims) == 0 {
		return len(b.victims) != 0
	}
	return cmp.Or(
		cmp.Compare(a.violating, b.violating),
		cmp.Compare(a.victims[0].priority, b.victims[0].priority),
		cmp.Compare(a.weight(), b.weight()),
		cmp.Compare(len(a.victims), len(b.victims)),
		b.earliest().Compare(a.earliest().Time),
	) < 0
}

// weight is the sum of the victims' priorities, made positive, so that many
// pods of a negative priority weigh more than few.
func (c candidate) weight() (sum int64) {
	for _, v := range c.victims {
		sum += int64(v.priority) + math.MaxInt32 + 1
	}
	return sum
}

// earliest is when the first of the most important victims began to run.
func (c candidate) earliest() metav1.Time {
	first := started(c.victims[0])
	for _, v := range c.victims {
		if at := started(v); v.priority == c.victims[0].priority && at.Before(&first) {
			first = at
		}
	}
	return first
}
