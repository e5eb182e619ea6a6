package scheduler

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
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
