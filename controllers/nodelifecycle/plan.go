package nodelifecycle

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kontiki/controllers/podview"
)

const (
	reasonUnknown  = "NodeStatusUnknown"
	messageUnknown = "Kubelet stopped posting node status."
	reasonBack     = "KubeletReady"
	messageBack    = "kubelet is posting ready status"
)

// watchedConditions are those an agent reports and nobody knows when it is away.
var watchedConditions = []corev1.NodeConditionType{
	corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

// ours are the taints this controller puts on and takes off.
var ours = []string{
	corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeUnschedulable,
	corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure, corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable,
}

// verdict is what the ring says of a node.
type verdict int

const (
	leaveAlone  verdict = iota // not agreed on yet: nothing is changed
	reachable                  // the ring holds it for alive
	unreachable                // the ring has agreed that it is dead, or it left, or nobody knows it
)

// judge turns the ring's view into a verdict. known is whether the ring has an
// entry; absentSince is since when it has had none. A suspected node, one that
// some peer cannot reach, is left alone: that is for the ring to settle.
func judge(m Member, known bool, absentSince, now time.Time, grace time.Duration) verdict {
	if !known {
		if now.Sub(absentSince) >= grace {
			return unreachable
		}
		return leaveAlone
	}
	switch m.State {
	case Alive:
		return reachable
	case Dead, Left:
		return unreachable
	}
	return leaveAlone
}

// conditionsOf are the node's conditions as the verdict makes them. A node that
// comes back is held for ready until its agent says otherwise: an agent that runs
// answers within moments, and it is the only one who knows.
func conditionsOf(node *corev1.Node, v verdict, now time.Time) []corev1.NodeCondition {
	conditions := slices.Clone(node.Status.Conditions)
	if v == leaveAlone {
		return conditions
	}
	for _, kind := range watchedConditions {
		at := slices.IndexFunc(conditions, func(c corev1.NodeCondition) bool { return c.Type == kind })
		if at < 0 {
			if v == unreachable {
				conditions = append(conditions, corev1.NodeCondition{
					Type: kind, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated",
					Message: "Kubelet never posted node status.", LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
				})
			}
			continue
		}
		c := &conditions[at]
		switch {
		case v == unreachable && c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionUnknown, reasonUnknown, messageUnknown, metav1.NewTime(now)
		case v == reachable && c.Status == corev1.ConditionUnknown && c.Reason == reasonUnknown:
			c.Status, c.Reason, c.Message, c.LastTransitionTime = back(kind, now)
		}
	}
	return conditions
}

func back(kind corev1.NodeConditionType, now time.Time) (corev1.ConditionStatus, string, string, metav1.Time) {
	at := metav1.NewTime(now)
	switch kind {
	case corev1.NodeMemoryPressure:
		return corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available", at
	case corev1.NodeDiskPressure:
		return corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure", at
	case corev1.NodePIDPressure:
		return corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available", at
	}
	return corev1.ConditionTrue, reasonBack, messageBack, at
}

func status(conditions []corev1.NodeCondition, kind corev1.NodeConditionType) corev1.ConditionStatus {
	for _, c := range conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return ""
}

// taintsOf are the node's taints under its conditions. Taints of others stay; one
// that stays keeps its time, which tolerationSeconds count from.
func taintsOf(node *corev1.Node, conditions []corev1.NodeCondition, now time.Time) []corev1.Taint {
	var wanted []corev1.Taint
	add := func(key string, effects ...corev1.TaintEffect) {
		for _, effect := range effects {
			wanted = append(wanted, corev1.Taint{Key: key, Effect: effect})
		}
	}
	switch status(conditions, corev1.NodeReady) {
	case corev1.ConditionTrue:
	case corev1.ConditionFalse:
		add(corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute)
	case corev1.ConditionUnknown:
		add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute)
	default: // its agent has not said anything yet
		add(corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule)
	}
	if node.Spec.Unschedulable {
		add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	for kind, key := range map[corev1.NodeConditionType]string{
		corev1.NodeMemoryPressure: corev1.TaintNodeMemoryPressure, corev1.NodeDiskPressure: corev1.TaintNodeDiskPressure,
		corev1.NodePIDPressure: corev1.TaintNodePIDPressure, corev1.NodeNetworkUnavailable: corev1.TaintNodeNetworkUnavailable,
	} {
		if status(conditions, kind) == corev1.ConditionTrue {
			add(key, corev1.TaintEffectNoSchedule)
		}
	}
	return mergeTaints(node.Spec.Taints, wanted, now)
}

func mergeTaints(have, wanted []corev1.Taint, now time.Time) []corev1.Taint {
	find := func(taints []corev1.Taint, t corev1.Taint) int {
		return slices.IndexFunc(taints, func(o corev1.Taint) bool { return o.Key == t.Key && o.Effect == t.Effect })
	}
	var merged []corev1.Taint
	for _, t := range have {
		if !slices.Contains(ours, t.Key) || find(wanted, t) >= 0 {
			merged = append(merged, t)
		}
	}
	slices.SortFunc(wanted, func(a, b corev1.Taint) int {
		return slices.Compare([]string{a.Key, string(a.Effect)}, []string{b.Key, string(b.Effect)})
	})
	for _, t := range wanted {
		if find(merged, t) < 0 {
			at := metav1.NewTime(now)
			t.TimeAdded = &at
			merged = append(merged, t)
		}
	}
	return merged
}

func sameConditions(a, b []corev1.NodeCondition) bool { return equality.Semantic.DeepEqual(a, b) }
func sameTaints(a, b []corev1.Taint) bool             { return equality.Semantic.DeepEqual(a, b) }

// eviction is when a pod has to leave its node.
type eviction struct {
	evict bool
	after time.Duration // 0 is now
}

// departure is when a pod has to leave its node, later than now.
type departure struct {
	pod types.NamespacedName
	uid types.UID
	at  time.Time
}

// evictions is what becomes of the pods of a node.
type evictions struct {
	due       []*corev1.Pod
	later     map[types.UID]departure
	cancelled []departure   // not any more, or they are gone already
	again     time.Duration // until the first of those that go later; 0 if there is none
}

// evictionsOf decides about the pods of a node. before is what goes later as it was decided the
// last time. One that must go earlier than that is cancelled, too, and due: it leaves for
// another taint, as upstream tells it.
func evictionsOf(pods []*corev1.Pod, taints []corev1.Taint, before map[types.UID]departure, fallback time.Duration, now time.Time) evictions {
	e := evictions{later: map[types.UID]departure{}}
	there := map[types.UID]bool{}
	for _, pod := range pods {
		there[pod.UID] = true
		was, planned := before[pod.UID]
		early := planned && was.at.After(now)
		if pod.DeletionTimestamp != nil || podview.Finished(pod) {
			if early { // nothing is known of it that has changed
				e.later[pod.UID] = was
			}
			continue
		}
		switch next := evictionOf(pod, taints, fallback, now); {
		case next.evict && next.after > 0:
			e.later[pod.UID] = departure{types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, pod.UID, now.Add(next.after)}
			if e.again == 0 || next.after < e.again {
				e.again = next.after
			}
		case next.evict:
			e.due = append(e.due, pod)
			fallthrough
		default:
			if early {
				e.cancelled = append(e.cancelled, was)
			}
		}
	}
	for uid, was := range before {
		if !there[uid] && was.at.After(now) {
			e.cancelled = append(e.cancelled, was)
		}
	}
	slices.SortFunc(e.cancelled, func(a, b departure) int { return strings.Compare(a.pod.String(), b.pod.String()) })
	return e
}

// evictionOf decides about one pod. It tolerates a taint for as long as its
// tolerations say, the shortest one that matches; fallback is how long a pod that
// says nothing tolerates not-ready and unreachable nodes (what admission's
// DefaultTolerationSeconds writes into pods).
func evictionOf(pod *corev1.Pod, taints []corev1.Taint, fallback time.Duration, now time.Time) eviction {
	e := eviction{}
	for _, taint := range taints {
		if taint.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		patience, forever := tolerates(pod, taint, fallback)
		if forever {
			continue
		}
		since := now
		if taint.TimeAdded != nil {
			since = taint.TimeAdded.Time
		}
		if left := max(0, since.Add(patience).Sub(now)); !e.evict || left < e.after {
			e = eviction{true, left}
		}
	}
	return e
}

func tolerates(pod *corev1.Pod, taint corev1.Taint, fallback time.Duration) (patience time.Duration, forever bool) {
	forever, matched := true, false
	for _, t := range pod.Spec.Tolerations {
		if !t.ToleratesTaint(klog.Logger{}, &taint, true) {
			continue
		}
		matched = true
		if t.TolerationSeconds == nil {
			continue
		}
		seconds := time.Duration(max(0, *t.TolerationSeconds)) * time.Second
		if forever || seconds < patience {
			patience, forever = seconds, false
		}
	}
	switch {
	case matched:
		return patience, forever
	case taint.Key == corev1.TaintNodeNotReady || taint.Key == corev1.TaintNodeUnreachable:
		return fallback, false
	}
	return 0, false
}
