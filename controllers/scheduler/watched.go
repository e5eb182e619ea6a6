package scheduler

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"

	"kontiki/controllers/podview"
)

// watched is what the scheduler reads besides pods and nodes.
type watched struct {
	pods, nodes cache.SharedIndexInformer
	configs     cache.SharedIndexInformer
	services    corelisters.ServiceLister
	sets        appslisters.ReplicaSetLister
	stateful    appslisters.StatefulSetLister
	replication corelisters.ReplicationControllerLister
	namespaces  corelisters.NamespaceLister
	budgets     policylisters.PodDisruptionBudgetLister
	synced      []cache.InformerSynced
}

func newWatched(shared informers.SharedInformerFactory) watched {
	core, apps, budgets := shared.Core().V1(), shared.Apps().V1(), shared.Policy().V1().PodDisruptionBudgets()
	w := watched{
		pods: core.Pods().Informer(), nodes: core.Nodes().Informer(), configs: core.ConfigMaps().Informer(),
		services: core.Services().Lister(), sets: apps.ReplicaSets().Lister(), stateful: apps.StatefulSets().Lister(),
		replication: core.ReplicationControllers().Lister(), namespaces: core.Namespaces().Lister(), budgets: budgets.Lister(),
	}
	for _, informer := range []cache.SharedIndexInformer{
		core.Services().Informer(), apps.ReplicaSets().Informer(), apps.StatefulSets().Informer(),
		core.ReplicationControllers().Informer(), core.Namespaces().Informer(), budgets.Informer(),
	} {
		w.synced = append(w.synced, informer.HasSynced)
	}
	return w
}

// disruptionBudgets are all budgets, in a fixed order.
func (w watched) disruptionBudgets() []budget {
	objects, err := w.budgets.List(labels.Everything())
	if err != nil {
		return nil // a lister that reads a cache does not fail
	}
	slices.SortFunc(objects, func(a, b *policyv1.PodDisruptionBudget) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	budgets := make([]budget, 0, len(objects))
	for _, b := range objects {
		if ready, ok := newBudget(b); ok {
			budgets = append(budgets, ready)
		}
	}
	return budgets
}

func (w watched) namespaceLabels(name string) labels.Set {
	ns, err := w.namespaces.Get(name)
	if err != nil {
		return nil
	}
	return ns.Labels
}

// defaultSelector selects what the pod's Services and its owner select.
func (w watched) defaultSelector(pod *corev1.Pod) labels.Selector {
	merged := labels.Set{}
	services, err := w.services.Services(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	for _, service := range podview.SelectedBy(services, pod) {
		merged = labels.Merge(merged, service.Spec.Selector)
	}
	selector := labels.NewSelector()
	if len(merged) > 0 {
		selector = labels.SelectorFromValidatedSet(merged)
	}
	own := w.ownersSelector(pod)
	if own == nil {
		return selector
	}
	if requirements, ok := own.Requirements(); ok {
		selector = selector.Add(requirements...)
	}
	return selector
}

// ownersSelector is the selector of the pod's controller, nil if there is none.
func (w watched) ownersSelector(pod *corev1.Pod) labels.Selector {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		return nil
	}
	var of *metav1.LabelSelector
	switch owner.Kind {
	case "ReplicaSet":
		if rs, err := w.sets.ReplicaSets(pod.Namespace).Get(owner.Name); err == nil {
			of = rs.Spec.Selector
		}
	case "StatefulSet":
		if set, err := w.stateful.StatefulSets(pod.Namespace).Get(owner.Name); err == nil {
			of = set.Spec.Selector
		}
	case "ReplicationController":
		if rc, err := w.replication.ReplicationControllers(pod.Namespace).Get(owner.Name); err == nil {
			of = &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}
		}
	}
	if of == nil {
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(of)
	if err != nil {
		return nil // the API has refused such an owner
	}
	return selector
}

// watch feeds cache and queue from the informers and waits until both are filled.
func (s *Scheduler) watch(ctx context.Context) (stop func(), err error) {
	configs, err := s.watched.configs.AddEventHandler(handler(s, s.configChanged))
	if err != nil {
		return nil, err
	}
	// First of all it must be known which pods are ours.
	cache.WaitForCacheSync(ctx.Done(), configs.HasSynced)
	nodes, err := s.watched.nodes.AddEventHandler(handler(s, s.nodeChanged))
	if err != nil {
		return nil, err
	}
	pods, err := s.watched.pods.AddEventHandler(handler(s, s.podChanged))
	if err != nil {
		return nil, err
	}
	forget, synced, err := s.watchVolumes()
	if err != nil {
		return nil, err
	}
	stop = func() {
		forget()
		// Only an informer that never had the handler refuses.
		_ = s.watched.nodes.RemoveEventHandler(nodes)
		_ = s.watched.pods.RemoveEventHandler(pods)
		_ = s.watched.configs.RemoveEventHandler(configs)
	}
	cache.WaitForCacheSync(ctx.Done(), append(append(synced, s.watched.synced...), nodes.HasSynced, pods.HasSynced)...)
	return stop, nil
}

func handler[T any](s *Scheduler, changed func(before, after *T)) cache.ResourceEventHandler {
	call := func(before, after any) {
		defer func() {
			if p := recover(); p != nil {
				s.log.Error("event handler panicked", "panic", p)
			}
		}()
		b, _ := before.(*T)
		a, _ := after.(*T)
		changed(b, a)
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { call(nil, obj) },
		UpdateFunc: call,
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			call(obj, nil)
		},
	}
}

func (s *Scheduler) nodeChanged(before, after *corev1.Node) {
	e := change{node: after, oldNode: before}
	switch {
	case after == nil:
		s.cache.removeNode(before.Name)
		e.event = nodeGone // a domain less may level a skew
	case before == nil:
		s.cache.setNode(after)
		e.event = nodeAdded
	default:
		e.event = nodeEvents(before, after)
		if e.event == 0 && equality.Semantic.DeepEqual(before.Status.Images, after.Status.Images) {
			return
		}
		s.cache.setNode(after)
		if e.event == 0 {
			return
		}
	}
	s.happened(e)
}

// configChanged takes the cluster's configuration, if it can be understood; else the
// one before stays, and the ConfigMap is told why.
func (s *Scheduler) configChanged(before, after *corev1.ConfigMap) {
	which := after
	if which == nil {
		which = before
	}
	if which.Namespace != configNamespace || which.Name != configName || before != nil && after != nil && before.Data[configKey] == after.Data[configKey] {
		return
	}
	with := profiles{Component: defaultOptions().build()}
	if after != nil {
		var err error
		if with, err = readProfiles(after.Data[configKey]); err != nil {
			s.log.Error("scheduler configuration not taken", "error", err)
			s.events.As(Component).Eventf(after, nil, corev1.EventTypeWarning, "InvalidConfiguration", "Configuring", "The scheduler goes on as before: %v", err)
			return
		}
	}
	s.profiles.Store(&with)
	for _, obj := range s.watched.pods.GetStore().List() { // some may be ours now
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName == "" && !podview.Finished(pod) {
			s.enqueue(nil, pod)
		}
	}
}

func nodeEvents(before, after *corev1.Node) (e event) {
	if !equality.Semantic.DeepEqual(before.Spec.Taints, after.Spec.Taints) || before.Spec.Unschedulable != after.Spec.Unschedulable {
		e |= nodeTaintsChanged
	}
	if !equality.Semantic.DeepEqual(before.Labels, after.Labels) {
		e |= nodeLabelsChanged
	}
	if !equality.Semantic.DeepEqual(before.Status.Allocatable, after.Status.Allocatable) {
		e |= nodeAllocatableChanged
	}
	return e
}

func (s *Scheduler) happened(e change) {
	e.namespace = s.watched.namespaceLabels
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue.happened(e, s.now())
	s.poke()
}

func (s *Scheduler) podChanged(before, after *corev1.Pod) {
	if before != nil && after != nil && before.UID != after.UID {
		s.podChanged(before, nil) // deleted and made again, unseen in between
		before = nil
	}
	switch {
	case after == nil:
		s.podLeft(before)
	case podview.Finished(after):
		if before == nil || !podview.Finished(before) {
			s.podLeft(after)
		}
	case after.Spec.NodeName != "":
		s.dequeue(after)
		s.podBound(before, after)
	default:
		s.enqueue(before, after)
	}
}

// podLeft takes note of a pod that takes up nothing any more, and of one that only
// waited.
func (s *Scheduler) podLeft(pod *corev1.Pod) {
	s.dequeue(pod)
	s.volumes.notify()
	s.cache.removePod(pod.UID)
	if pod.Spec.NodeName != "" || pod.Status.NominatedNodeName != "" {
		s.happened(change{event: podGone, pod: place(pod)})
	}
}

func (s *Scheduler) podBound(before, after *corev1.Pod) {
	if before == nil || before.Spec.NodeName == "" {
		s.happened(change{event: podAdded, pod: s.cache.setPod(after)})
		return
	}
	if sameToPlanning(before, after) {
		if before.Status.StartTime == nil && after.Status.StartTime != nil {
			s.cache.setPod(after) // who runs longest is the last to be preempted
		}
		return
	}
	e := change{pod: s.cache.setPod(after)}
	if !equality.Semantic.DeepEqual(before.Labels, after.Labels) {
		e.event |= podLabelsChanged
		e.before = before
	}
	if before.Generation != after.Generation || !equality.Semantic.DeepEqual(before.Status.Resize, after.Status.Resize) {
		e.event |= podGone
		e.smaller = true
	}
	if e.event != 0 {
		s.happened(e)
	}
}

// sameToPlanning says whether a bound pod changed in nothing planning looks at.
func sameToPlanning(before, after *corev1.Pod) bool {
	return before.Generation == after.Generation && (before.DeletionTimestamp == nil) == (after.DeletionTimestamp == nil) &&
		equality.Semantic.DeepEqual(before.Labels, after.Labels)
}

func (s *Scheduler) dequeue(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.gated, pod.UID)
	s.queue.remove(pod.UID)
}

func (s *Scheduler) enqueue(before, after *corev1.Pod) {
	if after.DeletionTimestamp != nil || s.profiles.Load().of(after) == nil {
		s.dequeue(after)
		return
	}
	if len(after.Spec.SchedulingGates) > 0 {
		s.dequeue(after)
		s.mu.Lock()
		s.gated[after.UID] = struct{}{}
		s.mu.Unlock()
		return
	}
	changed := before != nil && (!equality.Semantic.DeepEqual(before.Spec, after.Spec) || !equality.Semantic.DeepEqual(before.Labels, after.Labels))
	pod := place(after)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.gated, after.UID)
	s.queue.set(pod, changed, s.now())
	s.poke()
}
