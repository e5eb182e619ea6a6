package scheduler

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func pending(name string, priority int32) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Priority: ptr.To(priority)}}
}

func popped(q *queue, now time.Time) (names string) {
	for _, w := range q.pop(maxBatch, now) {
		names += w.pod.Name
	}
	return names
}

func TestQueue(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	q := newQueue()
	q.set(pending("a", 0), false, now)
	q.set(pending("b", 10), false, now.Add(time.Second))
	q.set(pending("c", 0), false, now.Add(2*time.Second))
	if got := popped(q, now); got != "bac" {
		t.Fatalf("order %q, want by priority, then age: bac", got)
	}
	q.failed("a", podGone, now)
	q.failed("b", nodeAdded, now)
	q.failed("c", 0, now) // its binding was not written
	if wait := q.sleep(now); wait != firstBackoff {
		t.Fatalf("sleeps %v, want until c's back-off ends", wait)
	}
	now = now.Add(firstBackoff)
	if got := popped(q, now); got != "c" {
		t.Fatalf("popped %q, want c after its back-off", got)
	}
	q.remove("c")
	q.happened(podAdded, now)
	if got := popped(q, now); got != "" {
		t.Fatalf("popped %q after an event that helps nobody", got)
	}
	q.happened(podGone, now)
	if got := popped(q, now); got != "a" {
		t.Fatalf("popped %q, want a: its back-off is over and a pod went", got)
	}
	q.happened(podGone, now) // while it is being planned
	q.failed("a", podGone, now)
	if wait := q.sleep(now); wait != 2*firstBackoff {
		t.Fatalf("sleeps %v, want a's doubled back-off: the event came while it was planned", wait)
	}
	now = now.Add(unheardRetry)
	if got := popped(q, now); len(got) != 2 {
		t.Fatalf("popped %q, want a and b: b waited too long for an event", got)
	}
}

func TestQueueRetriesAPodItsUserChanged(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	q := newQueue()
	q.set(pending("a", 0), false, now)
	popped(q, now)
	q.failed("a", nodeAdded, now)
	now = now.Add(time.Minute)
	q.set(pending("a", 0), false, now)
	if got := popped(q, now); got != "" {
		t.Fatalf("popped %q though only its status changed", got)
	}
	q.set(pending("a", 0), true, now)
	if got := popped(q, now); got != "a" {
		t.Fatalf("popped %q, want a", got)
	}
	q.remove("a")
	q.failed("a", 0, now)
	if wait := q.sleep(now); wait != foreverAsleep || len(q.pods)+len(q.parked) != 0 {
		t.Fatalf("a removed pod is still there, sleeps %v", wait)
	}
}
