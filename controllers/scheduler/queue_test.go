package scheduler

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func pending(name string, priority int32) *placed {
	return place(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Priority: ptr.To(priority)}})
}

func waitsFor(e event) help  { return help{events: e} }
func happens(e event) change { return change{event: e} }

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
	q.failed("a", waitsFor(podGone), now)
	q.failed("b", waitsFor(nodeAdded), now)
	q.failed("c", help{}, now) // its binding was not written
	if wait := q.sleep(now); wait != firstBackoff {
		t.Fatalf("sleeps %v, want until c's back-off ends", wait)
	}
	now = now.Add(firstBackoff)
	if got := popped(q, now); got != "c" {
		t.Fatalf("popped %q, want c after its back-off", got)
	}
	q.remove("c")
	q.happened(happens(podAdded), now)
	if got := popped(q, now); got != "" {
		t.Fatalf("popped %q after an event that helps nobody", got)
	}
	q.happened(happens(podGone), now)
	if got := popped(q, now); got != "a" {
		t.Fatalf("popped %q, want a: its back-off is over and a pod went", got)
	}
	q.happened(happens(podGone), now) // while it is being planned
	q.failed("a", waitsFor(podGone), now)
	if q.pods["a"].at != backingOff || q.pods["a"].until != now.Add(2*firstBackoff) {
		t.Fatalf("a is at %v until %v, want its doubled back-off: the event came while it was planned", q.pods["a"].at, q.pods["a"].until)
	}
	q.set(pending("d", 0), false, now)
	if got := popped(q, now); got != "d" {
		t.Fatalf("popped %q, want d: a backs off while others are active", got)
	}
	q.remove("d")
	if got := popped(q, now); got != "a" {
		t.Fatalf("popped %q, want a: nothing else is active", got)
	}
	q.failed("a", waitsFor(podGone), now)
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
	q.failed("a", waitsFor(nodeAdded), now)
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
	q.failed("a", help{}, now)
	if wait := q.sleep(now); wait != foreverAsleep || len(q.pods)+len(q.parked) != 0 {
		t.Fatalf("a removed pod is still there, sleeps %v", wait)
	}
}

// A pod for which room is being made is not planned until its victims were told, and
// then only if one of them has gone meanwhile.
func TestQueueHoldsAPodWhileRoomIsMade(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	q := newQueue()
	q.set(pending("a", 0), false, now)
	popped(q, now)
	q.hold("a", waitsFor(podGone))
	q.nominate("a", "n")
	if got := q.nominatedPods(); len(got["n"]) != 1 {
		t.Fatalf("nominated: %v", got)
	}
	q.happened(happens(podGone), now)
	if got := popped(q, now.Add(time.Hour)); got != "" {
		t.Fatalf("popped %q while its victims are being told", got)
	}
	q.failed("a", waitsFor(podGone), now)
	if got := popped(q, now); got != "a" {
		t.Fatalf("popped %q, want a: a pod went meanwhile", got)
	}
	q.hold("a", waitsFor(podGone))
	q.failed("a", waitsFor(podGone), now)
	if q.pods["a"].at != unschedulable {
		t.Fatal("nothing went, and it does not wait")
	}
	q.remove("a")
	if len(q.nominatedPods())+len(q.held)+len(q.nominees) != 0 {
		t.Fatal("a removed pod is still nominated")
	}
}

// Where a pod comes to, and why, is counted in upstream's words.
func TestQueueCountsWhereAPodComes(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	q := newQueue()
	var came []string
	q.counted = func(where, why string) { came = append(came, where+" "+why) }
	expect := func(want ...string) {
		t.Helper()
		if !slices.Equal(came, want) {
			t.Errorf("counted %q, want %q", came, want)
		}
		came = nil
	}
	q.set(pending("a", 0), false, now)
	popped(q, now)
	q.failed("a", waitsFor(podGone|nodeTaintsChanged), now)
	expect("active UnscheduledPodAdd", "unschedulable ScheduleAttemptFailure")
	q.happened(happens(nodeTaintsChanged), now)
	popped(q, now)
	expect("backoff NodeUpdateNodeTaint", "active PopFromBackoffQ")
	q.failed("a", help{}, now) // its binding was not written
	now = now.Add(time.Hour)
	q.sleep(now)
	popped(q, now)
	expect("backoff ScheduleAttemptFailure", "active BackoffComplete")
	q.failed("a", waitsFor(podGone), now)
	now = now.Add(time.Minute)
	q.happened(change{event: podGone, smaller: true}, now)
	popped(q, now)
	expect("unschedulable ScheduleAttemptFailure", "active AssignedPodUpdatePodScaleDown")
	q.failed("a", waitsFor(podGone), now)
	now = now.Add(time.Minute)
	q.set(pending("a", 0), true, now)
	popped(q, now)
	expect("unschedulable ScheduleAttemptFailure", "active TargetPodUpdate")
	q.failed("a", waitsFor(storageChanged), now)
	now = now.Add(unheardRetry)
	q.sleep(now)
	expect("unschedulable ScheduleAttemptFailure", "active UnschedulableTimeout")
}
