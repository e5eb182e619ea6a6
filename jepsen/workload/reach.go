package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
)

const (
	reachName   = "reach" // of the DaemonSet, and of the Service that pods ask by name
	refusedOnce = 5       // refusals one after the other that are too many
)

// reach has a pod on every node ask all others, and a Service before them by its name,
// again and again. What no fault touches must go on as if there were none.
func reach() Workload {
	w := Workload{
		Name:  "reach",
		About: "pods reach each other and a Service by its name, as long as no fault is between their nodes; a Service never refuses where it has an endpoint",
		judge: judgeReach,
	}
	w.setUp = w.makeReach
	w.run = func(ctx context.Context, r *Run) error {
		return w.withContainers(ctx, r, func(ctx context.Context, c *containers) error {
			select {
			case <-r.Ending:
			case <-ctx.Done():
				return ctx.Err()
			}
			over := r.Recorder.Record(history.Event{Type: history.Info, Process: int(r.processes.Add(1)), Workload: w.Name, F: "over"})
			return w.settle(ctx, r, func(context.Context, *client) error { return c.allReached(len(r.Nodes), over.Time) })
		})
	}
	return w
}

func (w Workload) makeReach(ctx context.Context, r *Run) error {
	labels := map[string]string{"app": reachName}
	pods := w.containersOf(r).witnessPod(labels, "reach", reachName)
	pods.Spec.Tolerations = nil // a DaemonSet's stay where they are
	probe := corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{}}, PeriodSeconds: 1, TimeoutSeconds: 10}
	probe.TCPSocket.Port.IntVal = 7000
	pods.Spec.Containers[0].ReadinessProbe = &probe
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: reachName, Namespace: w.namespace()},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 7000}}},
	}
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: reachName, Namespace: w.namespace()},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: pods},
	}
	return w.make(ctx, r,
		func(ctx context.Context, c *client) error {
			_, err := c.api.CoreV1().Services(service.Namespace).Create(ctx, service, metav1.CreateOptions{})
			if err == nil || apierrors.IsAlreadyExists(err) {
				_, err = c.api.AppsV1().DaemonSets(set.Namespace).Create(ctx, set, metav1.CreateOptions{})
			}
			return err
		},
		func(ctx context.Context, c *client) error {
			set, err := c.api.AppsV1().DaemonSets(set.Namespace).Get(ctx, reachName, metav1.GetOptions{})
			if err == nil && int(set.Status.NumberReady) != len(r.Nodes) {
				err = fmt.Errorf("%d pods are ready on %d nodes", set.Status.NumberReady, len(r.Nodes))
			}
			return err
		})
}

// allReached tells what is missing to a pod on each node that has reached all others and
// the Service since a time.
func (c *containers) allReached(nodes int, since int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	there := c.thereLocked()
	if len(there) != nodes {
		return fmt.Errorf("%d pods are there on %d nodes", len(there), nodes)
	}
	var errs []error
	for _, a := range there {
		for _, to := range append(podsOf(there), reachName) {
			if at, ok := a.reached[to]; to != a.Pod && (!ok || at < since) {
				errs = append(errs, fmt.Errorf("the pod on %s did not reach %s", a.Node, to))
			}
		}
	}
	return errors.Join(errs...)
}

func podsOf(lives []*containerLife) (pods []string) {
	for _, l := range lives {
		pods = append(pods, l.Pod)
	}
	return pods
}

// way is from a pod to another, or to the Service.
type way struct {
	from, to         string
	fromNode, toNode string // toNode is empty if it leads to the Service
}

// judgeReach follows every way: once it was gone, nothing but a fault that touches it may
// make it impassable.
func judgeReach(h judged) (found []check.Anomaly) {
	nodes := make(map[string]string) // pod → node
	for _, l := range h.livesIn() {
		pod, _, _ := strings.Cut(l.Value, " ")
		nodes[pod] = l.Node
	}
	ways := make(map[way][]history.Event)
	for _, e := range h.events {
		if e.F == asked {
			pod, _, _ := strings.Cut(e.Value, " ")
			w := way{pod, e.Key, e.Node, nodes[e.Key]}
			ways[w] = append(ways[w], e)
		}
	}
	if len(ways) == 0 {
		return []check.Anomaly{{Kind: "no witness", Text: "no container told whom it reached"}}
	}
	byName := func(a, b way) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) }
	var all []way
	for w := range ways {
		all = append(all, w)
	}
	slices.SortFunc(all, byName)
	for _, w := range all {
		found = append(found, w.broken(ways[w], h.touches)...)
		if w.toNode == "" {
			found = append(found, w.refused(ways[w])...)
		}
	}
	return found
}

// reached tells whether a question was answered by whom it was asked of.
func (w way) reached(e history.Event) bool {
	return e.Error == "" && (w.toNode == "" || e.Level == w.to)
}

// broken tells of questions that failed on a way that was gone before and that no fault
// has touched since. It is told once until the way was gone again.
func (w way) broken(questions []history.Event, touches []touch) (found []check.Anomaly) {
	var gone *history.Event // when it was gone last, if nothing has touched it since
	touched := func(since, until int64) bool {
		return slices.ContainsFunc(touches, func(t touch) bool { return t.Since < until && since < t.Until && t.concerns(w) })
	}
	for i, q := range questions {
		unknown := slices.ContainsFunc(touches, func(t touch) bool { return t.Since < q.Until && q.Since < t.Known })
		if gone != nil && touched(gone.Until, q.Until) {
			gone = nil
		}
		switch {
		case touched(q.Since, q.Until), unknown:
		case w.reached(q):
			gone = &questions[i]
		case gone != nil:
			found = append(found, check.Anomaly{Kind: "not reached", At: []int64{q.Index, gone.Index},
				Text: fmt.Sprintf("%s on %s did not reach %s, with no fault between: %s", w.from, w.fromNode, w.to, cmp.Or(q.Error, q.Level+" answered"))})
			gone = nil
		}
	}
	return found
}

// refused tells where the Service refused again and again. The pod that asks is one that
// it stands for, so there always is somebody who could have answered; that another one was
// asked which has just gone explains one refusal, and not many.
func (w way) refused(questions []history.Event) (found []check.Anomaly) {
	reached, n := false, 0
	for _, q := range questions {
		switch {
		case q.Error == "":
			reached, n = true, 0
		case strings.Contains(q.Error, "connection refused"):
			if n++; n == refusedOnce && reached {
				found = append(found, check.Anomaly{Kind: "a Service refused", At: []int64{q.Index},
					Text: fmt.Sprintf("%s refused %s on %s %d times one after the other", w.to, w.from, w.fromNode, n)})
			}
		default:
			n = 0
		}
	}
	return found
}

// touch is what a fault may touch: all until Known, then what it says, until the cluster
// was whole again.
type touch struct {
	Since, Known, Until int64
	what                []history.Item
}

// touchesOf reads from a history what faults touched.
func touchesOf(events []history.Event) (all []touch) {
	const open = int64(1<<63 - 1)
	byProcess := make(map[int]int) // place in all
	for _, e := range events {
		if !e.Fault() {
			continue
		}
		i, ok := byProcess[e.Process]
		switch {
		case e.F == history.Whole && e.Type == history.OK:
			for i := range all {
				all[i].Until = min(all[i].Until, e.Time)
			}
		case e.F == history.Touches && ok:
			all[i].Known, all[i].what = min(all[i].Known, e.Time), e.Items
		case e.F != history.Whole && e.Type == history.Invoke:
			byProcess[e.Process] = len(all)
			all = append(all, touch{Since: e.Time, Known: open, Until: open})
		}
	}
	for i := range all {
		all[i].Known = min(all[i].Known, all[i].Until)
	}
	return all
}

// concerns tells whether a fault is between the ends of a way. The Service may choose any
// pod, and its name is told by the node's own process.
func (t touch) concerns(w way) bool {
	return slices.ContainsFunc(t.what, func(it history.Item) bool {
		switch {
		case it.Value == history.Node:
			return w.toNode == "" && it.Key == w.fromNode
		case it.Value == history.AllWays:
			return w.toNode == "" || it.Key == w.fromNode || it.Key == w.toNode
		case w.toNode == "":
			return it.Key == w.fromNode || it.Value == w.fromNode
		}
		return it.Key == w.fromNode && it.Value == w.toNode || it.Key == w.toNode && it.Value == w.fromNode
	})
}
