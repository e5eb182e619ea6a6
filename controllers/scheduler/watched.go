package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"kontiki/controllers/podview"
)

// watched is what the scheduler reads besides pods and nodes.
type watched struct {
	pods, nodes cache.SharedIndexInformer
	services    corelisters.ServiceLister
	sets        appslisters.ReplicaSetLister
	namespaces  corelisters.NamespaceLister
	synced      []cache.InformerSynced
}

func newWatched(shared informers.SharedInformerFactory) watched {
	services, sets, namespaces := shared.Core().V1().Services(), shared.Apps().V1().ReplicaSets(), shared.Core().V1().Namespaces()
	return watched{
		pods: shared.Core().V1().Pods().Informer(), nodes: shared.Core().V1().Nodes().Informer(),
		services: services.Lister(), sets: sets.Lister(), namespaces: namespaces.Lister(),
		synced: []cache.InformerSynced{services.Informer().HasSynced, sets.Informer().HasSynced, namespaces.Informer().HasSynced},
	}
}

func (w watched) namespaceLabels(name string) labels.Set {
	ns, err := w.namespaces.Get(name)
	if err != nil {
		return nil
	}
	return ns.Labels
}

// defaultSelector selects what the pod's Services and its ReplicaSet select.
func (w watched) defaultSelector(pod *corev1.Pod) labels.Selector {
	merged := labels.Set{}
	services, err := w.services.Services(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	for _, service := range services {
		if len(service.Spec.Selector) > 0 && labels.SelectorFromValidatedSet(service.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			merged = labels.Merge(merged, service.Spec.Selector)
		}
	}
	selector := labels.NewSelector()
	if len(merged) > 0 {
		selector = labels.SelectorFromValidatedSet(merged)
	}
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil || owner.Kind != "ReplicaSet" {
		return selector
	}
	rs, err := w.sets.ReplicaSets(pod.Namespace).Get(owner.Name)
	if err != nil {
		return selector
	}
	if own, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector); err == nil {
		if requirements, ok := own.Requirements(); ok {
			selector = selector.Add(requirements...)
		}
	}
	return selector
}

// watch feeds cache and queue from the informers and waits until both are filled.
func (s *Scheduler) watch(ctx context.Context) (stop func(), err error) {
	nodes, err := s.watched.nodes.AddEventHandler(handler(s, s.nodeChanged))
	if err != nil {
		return nil, err
	}
	pods, err := s.watched.pods.AddEventHandler(handler(s, s.podChanged))
	if err != nil {
		return nil, err
	}
	stop = func() {
		// Only an informer that never had the handler refuses.
		_ = s.watched.nodes.RemoveEventHandler(nodes)
		_ = s.watched.pods.RemoveEventHandler(pods)
	}
	cache.WaitForCacheSync(ctx.Done(), append(s.watched.synced, nodes.HasSynced, pods.HasSynced)...)
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
	var e event
	switch {
	case after == nil:
		s.cache.removeNode(before.Name)
		e = nodeLabelsChanged // a domain less may level a skew
	case before == nil:
		s.cache.setNode(after)
		e = ^event(0)
	default:
		if e = nodeEvents(before, after); e == 0 {
			return
		}
		s.cache.setNode(after)
	}
	s.happened(e)
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

func (s *Scheduler) happened(e event) {
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
		s.dequeue(before)
		s.cache.removePod(before.UID)
		s.happened(podGone)
	case podview.Finished(after):
		s.dequeue(after)
		s.cache.removePod(after.UID)
		if before != nil && !podview.Finished(before) {
			s.happened(podGone)
		}
	case after.Spec.NodeName != "":
		s.dequeue(after)
		if before != nil && before.Spec.NodeName != "" && sameToPlanning(before, after) {
			return
		}
		s.cache.setPod(after)
		s.happened(podAdded)
	default:
		s.enqueue(before, after)
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
	s.queue.remove(pod.UID)
}

func (s *Scheduler) enqueue(before, after *corev1.Pod) {
	name := after.Spec.SchedulerName
	if name != Component && name != "" {
		return
	}
	if after.DeletionTimestamp != nil || len(after.Spec.SchedulingGates) > 0 {
		s.dequeue(after)
		return
	}
	changed := before != nil && (!equality.Semantic.DeepEqual(before.Spec, after.Spec) || !equality.Semantic.DeepEqual(before.Labels, after.Labels))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue.set(after, changed, s.now())
	s.poke()
}

// conditionPatch is the status patch for a condition, and whether it says anything new.
func conditionPatch(pod *corev1.Pod, c corev1.PodCondition, now time.Time) ([]byte, bool) {
	c.LastTransitionTime = metav1.NewTime(now)
	if old := podview.Condition(pod, c.Type); old != nil {
		if old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message {
			return nil, false
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
	condition, err := json.Marshal(c)
	if err != nil {
		return nil, false // a PodCondition can always be marshalled
	}
	return fmt.Appendf(nil, `{"metadata":{"uid":%q},"status":{"conditions":[%s]}}`, pod.UID, condition), true
}
