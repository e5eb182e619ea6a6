package triggertime

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestChanged: a Service that is new changed when it was made; later, it is the first change that
// counts of those since it was asked for the last time.
func TestChanged(t *testing.T) {
	at := func(second int) metav1.Time { return metav1.NewTime(time.Unix(int64(second), 0)) }
	pods := func(ready map[string]int) (pods []*corev1.Pod) {
		for name, second := range ready {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
			if second > 0 {
				pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, LastTransitionTime: at(second)}}
			}
			pods = append(pods, pod)
		}
		return pods
	}
	tracker := New()
	for _, step := range []struct {
		what    string
		service int // made at
		pods    map[string]int
		want    int // 0: no change
	}{
		{"new, with pods that are older", 10, map[string]int{"a": 5}, 10},
		{"the same", 10, map[string]int{"a": 5}, 0},
		{"two pods come", 10, map[string]int{"a": 5, "b": 22, "c": 21}, 21},
		{"one that says nothing yet", 10, map[string]int{"a": 5, "b": 22, "c": 21, "d": 0}, 0},
		{"one goes", 10, map[string]int{"a": 5, "c": 21}, 0},
		{"it is back under its name", 10, map[string]int{"a": 5, "b": 22, "c": 21}, 22},
		{"one changes", 10, map[string]int{"a": 30, "b": 22, "c": 21}, 30},
		{"the Service is made anew", 40, map[string]int{"a": 50}, 40},
	} {
		got := tracker.Changed(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", CreationTimestamp: at(step.service)}}, pods(step.pods))
		if got.IsZero() != (step.want == 0) || step.want != 0 && !got.Equal(at(step.want).Time) {
			t.Errorf("%s: it changed at %v, want %d", step.what, got, step.want)
		}
	}
	tracker.Forget("default", "web")
	if got := tracker.Changed(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", CreationTimestamp: at(40)}}, pods(map[string]int{"a": 60})); !got.Equal(at(40).Time) {
		t.Errorf("forgotten, it changed at %v", got)
	}
}

func TestAnnotate(t *testing.T) {
	var o metav1.ObjectMeta
	Annotate(&o, time.Time{})
	if o.Annotations != nil {
		t.Errorf("without a time: %v", o.Annotations)
	}
	Annotate(&o, time.Date(2026, 1, 2, 3, 4, 5, 6000, time.FixedZone("east", 3600)))
	if got := o.Annotations[corev1.EndpointsLastChangeTriggerTime]; got != "2026-01-02T02:04:05.000006Z" {
		t.Errorf("the annotation is %q", got)
	}
	Annotate(&o, time.Time{})
	if _, is := o.Annotations[corev1.EndpointsLastChangeTriggerTime]; is {
		t.Error("an older time stays")
	}
}
