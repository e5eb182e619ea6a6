package scheduler

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	"pgregory.net/rapid"
)

// TestGroupsCountWhatWalkingCounts: pods come and go, and at each step the groups
// tell what looking at each pod tells.
func TestGroupsCountWhatWalkingCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := &nodeInfo{}
		for step := range rapid.IntRange(1, 30).Draw(t, "steps") {
			if len(n.pods) > 0 && rapid.Bool().Draw(t, "remove") {
				n = n.without(rapid.SampledFrom(n.pods).Draw(t, "which").pod.UID)
			} else {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
					Namespace: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "namespace"), UID: types.UID(fmt.Sprint(step)),
					Labels: map[string]string{"app": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "app")},
				}}
				if rapid.Bool().Draw(t, "leaving") {
					pod.DeletionTimestamp = &metav1.Time{Time: time.Unix(0, 0)}
				}
				n = n.with(place(pod))
			}
			s := spread{selector: labels.SelectorFromSet(labels.Set{"app": "x"}), shapes: map[string]bool{}}
			want := 0
			for _, p := range n.pods {
				if p.pod.Namespace == "a" && p.pod.Labels["app"] == "x" && p.pod.DeletionTimestamp == nil {
					want++
				}
			}
			if got := s.matching("a", n.groups); got != want {
				t.Fatalf("groups count %d, walking %d: %+v", got, want, n.groups)
			}
		}
	})
}

// TestRequestsAreTheLibrarys holds the short way of plain pods against what the library
// works out, of pods of all sorts.
func TestRequestsAreTheLibrarys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := func(what string) corev1.ResourceList {
			l := corev1.ResourceList{}
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, "example.com/thing"} {
				if amount := rapid.SampledFrom([]string{"", "", "0", "1", "7", "1500m", "100u"}).Draw(t, what+" of "+string(name)); amount != "" {
					l[name] = resource.MustParse(amount)
				}
			}
			return l
		}
		some := func(what string) bool { return rapid.IntRange(0, 5).Draw(t, what) == 0 }
		container := func(name string) corev1.Container {
			return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list(name)}}
		}
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{container("c")}}}
		if some("more containers") {
			pod.Spec.Containers = append(pod.Spec.Containers, container("d"))
		}
		if some("init containers") {
			pod.Spec.InitContainers = []corev1.Container{container("i")}
		}
		if some("overhead") {
			pod.Spec.Overhead = list("overhead")
		}
		if some("resources of the pod") {
			pod.Spec.Resources = &corev1.ResourceRequirements{Requests: list("the pod")}
		}
		if some("statuses") {
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", AllocatedResources: list("what was given")}}
		}
		if some("a resize") {
			reason := rapid.SampledFrom([]string{corev1.PodReasonInfeasible, corev1.PodReasonDeferred}).Draw(t, "why it waits")
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodResizePending, Reason: reason}}
		}
		requests, scoring := requestsOf(pod)
		if want := amounts(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true})); !requests.equal(want) {
			t.Fatalf("requests %+v, the library says %+v", requests, want)
		}
		if want := amounts(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true, NonMissingContainerRequests: scoringDefaults})); !scoring.equal(want) {
			t.Fatalf("scoring %+v, the library says %+v", scoring, want)
		}
	})
}

func BenchmarkPlace(b *testing.B) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", Labels: map[string]string{"app": "x"}}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}}}},
	}}
	b.ReportAllocs()
	for b.Loop() {
		place(pod)
	}
}
