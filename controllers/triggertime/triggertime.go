// Package triggertime tells since when Endpoints and EndpointSlices are due to change: the time of
// the first change of a Service's pods that they do not show yet. It stands on them as the annotation
// endpoints.kubernetes.io/last-change-trigger-time, from which proxies and DNS servers measure how long
// a change takes to reach them.
//
// A Tracker may be used by several workers, a Service by one at a time. Only the controllers of
// endpoints import this package.
package triggertime

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kontiki/controllers/podview"
)

// Tracker remembers what of each Service was there the last time.
type Tracker struct {
	mu   sync.Mutex // protects seen
	seen map[types.NamespacedName]sight
}

// sight is when a Service was made, and when each of its pods last became ready, or ceased to be.
type sight struct {
	service time.Time
	pods    map[string]time.Time // by name
}

// New makes a tracker that knows no Service.
func New() *Tracker { return &Tracker{seen: map[types.NamespacedName]sight{}} }

// Changed is the time of the first change since it was last asked about the Service; zero if none
// changed it. Of a Service that it does not know, it is the time that the Service was made at.
func (t *Tracker) Changed(service *corev1.Service, pods []*corev1.Pod) time.Time {
	key := types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
	now := sight{service: service.CreationTimestamp.Time, pods: map[string]time.Time{}}
	for _, pod := range pods {
		if ready := podview.Condition(pod, corev1.PodReady); ready != nil && !ready.LastTransitionTime.IsZero() {
			now.pods[pod.Name] = ready.LastTransitionTime.Time
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	before, known := t.seen[key]
	t.seen[key] = now
	if !known {
		return now.service
	}
	return now.firstSince(before)
}

// firstSince is the earliest of the times that have moved on.
func (s sight) firstSince(before sight) (first time.Time) {
	consider := func(at, was time.Time) {
		if at.After(was) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	consider(s.service, before.service)
	for name, at := range s.pods {
		consider(at, before.pods[name])
	}
	return first
}

// Forget drops a Service that is gone.
func (t *Tracker) Forget(namespace, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.seen, types.NamespacedName{Namespace: namespace, Name: name})
}

// Annotate writes the time on an object that is about to be written, or takes an older one off.
func Annotate(o *metav1.ObjectMeta, changed time.Time) {
	if changed.IsZero() {
		delete(o.Annotations, corev1.EndpointsLastChangeTriggerTime)
		return
	}
	metav1.SetMetaDataAnnotation(o, corev1.EndpointsLastChangeTriggerTime, changed.UTC().Format(time.RFC3339Nano))
}
