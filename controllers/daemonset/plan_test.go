package daemonset

import (
	"cmp"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kontiki/controllers/history"
	"kontiki/controllers/plantest"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type podInput struct {
	Node  string `json:"node"`
	Image string `json:"image"`
	State string `json:"state"` // ready (the default), starting, succeeded, failed, leaving
	Age   string `json:"age"`   // since it is ready; none by default
	Bound bool   `json:"bound"`
}

type input struct {
	Spec      appsv1.DaemonSetSpec `json:"spec"`
	Image     string               `json:"image"`
	Nodes     []corev1.Node        `json:"nodes"`
	Revisions []string             `json:"revisions"`
	Pods      []podInput           `json:"pods"`
}

type output struct {
	Revision string   `json:"revision,omitempty"`
	Create   []string `json:"create,omitempty"` // nodes
	Remove   []string `json:"remove,omitempty"` // node and image, and how it ended
	Drop     []string `json:"drop,omitempty"`   // images
	Again    string   `json:"again,omitempty"`
	Counts   string   `json:"counts,omitempty"`
}

func template(spec corev1.PodSpec, image string) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "log"}}, Spec: *spec.DeepCopy()}
	t.Spec.Containers = []corev1.Container{{Name: "c", Image: image}}
	return t
}

func setOf(spec appsv1.DaemonSetSpec, image string) *appsv1.DaemonSet {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "log", UID: "set"}, Spec: spec}
	set.Spec.Template = template(spec.Template.Spec, image)
	return set
}

func revision(set *appsv1.DaemonSet, image string, number int64) *appsv1.ControllerRevision {
	raw, err := history.Data(ptr.To(template(set.Spec.Template.Spec, image)))
	if err != nil {
		panic(err)
	}
	return history.New(set, kind, set.Spec.Template.Labels, raw, number, nil)
}

func podOn(set *appsv1.DaemonSet, node, image, state string, age time.Duration) *corev1.Pod {
	pod := newPod(set, revision(set, image, 0).Labels[history.HashLabel], node)
	pod.Name, pod.Spec.Containers[0].Image = node+" "+image, image
	pod.UID = types.UID(pod.Name)
	switch state {
	case "":
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(epoch.Add(-age))}}
	case "succeeded":
		pod.Status.Phase = corev1.PodSucceeded
	case "failed":
		pod.Status.Phase = corev1.PodFailed
	case "leaving":
		pod.DeletionTimestamp = &metav1.Time{Time: epoch}
	}
	return pod
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		set := setOf(in.Spec, in.Image)
		w := world{set: set, now: epoch}
		for i := range in.Nodes {
			w.nodes = append(w.nodes, &in.Nodes[i])
		}
		for i, image := range in.Revisions {
			w.revisions = append(w.revisions, revision(set, image, int64(i+1)))
		}
		for _, p := range in.Pods {
			age, err := time.ParseDuration(cmp.Or(p.Age, "0s"))
			if err != nil {
				t.Fatal(err)
			}
			pod := podOn(set, p.Node, p.Image, p.State, age)
			if p.Bound {
				pod.Spec.NodeName = p.Node
			}
			w.pods = append(w.pods, pod)
		}
		todo, err := plan(w)
		if err != nil {
			t.Fatal(err)
		}
		var out output
		for _, pod := range todo.create {
			out.Create = append(out.Create, target(pod))
		}
		for _, r := range todo.remove {
			text := r.pod.Name
			if r.ended != "" {
				text += " " + string(r.ended)
			}
			out.Remove = append(out.Remove, text)
		}
		switch c := todo.revision; {
		case c.Create:
			out.Revision = fmt.Sprintf("create %d", c.Revision.Revision)
		case c.Raise:
			out.Revision = fmt.Sprintf("raise to %d", c.Revision.Revision)
		}
		for _, r := range todo.drop {
			for _, image := range in.Revisions {
				if revision(set, image, 0).Name == r.Name {
					out.Drop = append(out.Drop, image)
				}
			}
		}
		if todo.again > 0 {
			out.Again = todo.again.String()
		}
		if s := todo.status; s != nil {
			out.Counts = fmt.Sprintf("desired %d current %d misscheduled %d ready %d updated %d available %d unavailable %d", s.DesiredNumberScheduled,
				s.CurrentNumberScheduled, s.NumberMisscheduled, s.NumberReady, s.UpdatedNumberScheduled, s.NumberAvailable, s.NumberUnavailable)
		}
		return out
	})
}

// TestARevisionIsFoundByItsPods: what a pod is labelled with labels its revision, too.
func TestARevisionIsFoundByItsPods(t *testing.T) {
	set := setOf(appsv1.DaemonSetSpec{}, "log:1")
	todo, err := plan(world{set: set, nodes: []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "a"}}}, now: epoch})
	if err != nil {
		t.Fatal(err)
	}
	const key = appsv1.ControllerRevisionHashLabelKey
	if got, want := todo.revision.Revision.Labels[key], todo.create[0].Labels[key]; got == "" || got != want {
		t.Errorf("the revision is labelled %q, its pods %q", got, want)
	}
}
