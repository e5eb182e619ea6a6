package daemonset

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

// TestPodsThatEndedAreToldOf: one that failed with a warning, and not the next on that node
// before a pause; one that ended well without either.
func TestPodsThatEndedAreToldOf(t *testing.T) {
	client, events := fake.NewClientset(), record.NewFakeRecorder(10)
	c := New(client, informers.NewSharedInformerFactory(client, 0), events, slog.New(slog.DiscardHandler), time.Now)
	set := setOf(appsv1.DaemonSetSpec{}, "log:1")
	ended := func(node string, phase corev1.PodPhase) removal {
		pod := podOn(set, node, "log:1", "", 0)
		pod.Name, pod.Status.Phase = "log-"+node, phase
		return removal{pod, phase}
	}
	var due []string
	for _, r := range []removal{ended("a", corev1.PodFailed), ended("a", corev1.PodFailed), ended("b", corev1.PodSucceeded), ended("b", corev1.PodSucceeded)} {
		for _, pod := range c.due("default/log", set, []removal{r}) {
			due = append(due, pod.Name)
		}
	}
	if want := []string{"log-a", "log-b", "log-b"}; !slices.Equal(due, want) {
		t.Errorf("deletes %v, want %v", due, want)
	}
	close(events.Events)
	var told []string
	for e := range events.Events {
		told = append(told, e)
	}
	want := []string{
		"Warning FailedDaemonPod Found failed daemon pod default/log-a on node a, will try to kill it",
		"Normal SucceededDaemonPod Found succeeded daemon pod default/log-b on node b, will try to delete it",
		"Normal SucceededDaemonPod Found succeeded daemon pod default/log-b on node b, will try to delete it",
	}
	if !slices.Equal(told, want) {
		t.Errorf("says %q, want %q", told, want)
	}
}
