package replicaset

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kontiki/controllers/plantest"
	"kontiki/controllers/podcontrol"
)

type input struct {
	Now        metav1.Time       `json:"now"`
	ReplicaSet appsv1.ReplicaSet `json:"replicaSet"`
	Pods       []corev1.Pod      `json:"pods"`
	Related    []corev1.Pod      `json:"related"`
	Trouble    string            `json:"trouble"`
}

type output struct {
	Adopt      []string `json:"adopt,omitempty"`
	Release    []string `json:"release,omitempty"`
	Create     int      `json:"create,omitempty"`
	Delete     []string `json:"delete,omitempty"`
	Counts     string   `json:"counts,omitempty"`
	Conditions []string `json:"conditions,omitempty"`
	Again      string   `json:"again,omitempty"`
}

func names(pods []*corev1.Pod) []string {
	var all []string
	for _, pod := range pods {
		all = append(all, pod.Name)
	}
	return all
}

func pointers(pods []corev1.Pod) []*corev1.Pod {
	var all []*corev1.Pod
	for i := range pods {
		all = append(all, &pods[i])
	}
	return all
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		rs := &in.ReplicaSet
		rs.UID = "rs"
		for i := range in.Pods { // "controlled by" in short
			if in.Pods[i].Annotations["owner"] != "none" {
				owner := metav1.OwnerReference{UID: "rs", Controller: new(bool)}
				*owner.Controller = true
				in.Pods[i].OwnerReferences = append(in.Pods[i].OwnerReferences, owner)
			}
		}
		selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
		if err != nil {
			t.Fatal(err)
		}
		c := podcontrol.Sort(rs, podcontrol.BySelector(selector), pointers(in.Pods))
		todo := plan(rs, c.Owned, append(pointers(in.Related), c.Owned...), in.Now.Time)
		out := output{Adopt: names(c.Adopt), Release: names(c.Release), Create: todo.create, Delete: names(todo.remove)}
		why := trouble{}
		if in.Trouble != "" {
			why = trouble{"FailedCreate", in.Trouble}
		}
		status, again := statusOf(rs, c.Owned, why, in.Now.Time)
		if changed(rs, status) {
			out.Counts = fmt.Sprintf("replicas %d labelled %d ready %d available %d terminating %d", status.Replicas,
				status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas, *status.TerminatingReplicas)
			for _, condition := range status.Conditions {
				out.Conditions = append(out.Conditions, fmt.Sprintf("%s=%s %s: %s", condition.Type, condition.Status, condition.Reason, condition.Message))
			}
		}
		if again > 0 {
			out.Again = again.String()
		}
		return out
	})
}

// TestRankIsTotal: whatever two pods, exactly one goes first, and sorting any
// order of them gives the same one.
func TestRankIsTotal(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var pods []*corev1.Pod
	for _, node := range []string{"", "a", "b"} {
		for _, phase := range []corev1.PodPhase{corev1.PodPending, corev1.PodRunning} {
			for _, restarts := range []int32{0, 3} {
				pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{
					Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{RestartCount: restarts}},
				}}
				pod.Name = fmt.Sprintf("%s-%s-%d", node, phase, restarts)
				pod.UID = types.UID(pod.Name)
				pods = append(pods, pod)
			}
		}
	}
	want := names(firstToGo(pods, pods, len(pods)-1, now))
	slices.Reverse(pods)
	if got := names(firstToGo(pods, pods, len(pods)-1, now)); !slices.Equal(got, want) {
		t.Errorf("order depends on input:\n%v\n%v", got, want)
	}
}
