package deployment

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kontiki/controllers/plantest"
)

// set is a ReplicaSet in short: its template is the image.
type set struct {
	Name       string `json:"name"`
	Image      string `json:"image"`
	Replicas   int32  `json:"replicas"`
	Pods       int32  `json:"pods"`      // status.replicas
	Available  int32  `json:"available"` // and ready
	Revision   string `json:"revision"`
	Desired    string `json:"desired"` // annotations
	Max        string `json:"max"`
	RunningOld int    `json:"running"` // pods that are not finished
	Refused    bool   `json:"refused"` // its pods are
}

type input struct {
	Now        metav1.Time       `json:"now"`
	Deployment appsv1.Deployment `json:"deployment"`
	Image      string            `json:"image"`
	Sets       []set             `json:"sets"`
}

type output struct {
	Create     string   `json:"create,omitempty"`
	Resize     []string `json:"resize,omitempty"`
	Note       []string `json:"note,omitempty"` // sets written without another size
	Remove     []string `json:"remove,omitempty"`
	Revision   string   `json:"revision,omitempty"`
	Conditions []string `json:"conditions,omitempty"`
	Counts     string   `json:"counts,omitempty"`
	Again      string   `json:"again,omitempty"`
}

func templateOf(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}
}

func (s set) object(age int) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: s.Name, UID: types.UID(s.Name), Annotations: map[string]string{},
			CreationTimestamp: metav1.NewTime(time.Date(2026, 1, 1, 0, age, 0, 0, time.UTC)),
		},
		Spec:   appsv1.ReplicaSetSpec{Replicas: ptr.To(s.Replicas), Template: templateOf(s.Image)},
		Status: appsv1.ReplicaSetStatus{Replicas: s.Pods, ReadyReplicas: s.Available, AvailableReplicas: s.Available},
	}
	for key, value := range map[string]string{revisionAnnotation: s.Revision, desiredAnnotation: s.Desired, maxAnnotation: s.Max} {
		if value != "" {
			rs.Annotations[key] = value
		}
	}
	if s.Refused {
		rs.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate"}}
	}
	return rs
}

func (in input) world() world {
	d := in.Deployment.DeepCopy()
	d.Name, d.Namespace, d.UID = "web", "default", "d"
	d.Spec.Template = templateOf(in.Image)
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	w := world{deployment: d, now: in.Now.Time, pods: map[types.UID][]*corev1.Pod{}}
	for i, s := range in.Sets {
		rs := s.object(i)
		w.sets = append(w.sets, rs)
		for range s.RunningOld {
			w.pods[rs.UID] = append(w.pods[rs.UID], &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning}})
		}
	}
	return w
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		w := in.world()
		a := plan(w)
		var out output
		if a.create != nil {
			out.Create = fmt.Sprintf("%d pods of %s, revision %s", *a.create.Spec.Replicas, a.create.Spec.Template.Spec.Containers[0].Image, a.create.Annotations[revisionAnnotation])
		}
		for _, u := range a.update {
			if u.from != *u.set.Spec.Replicas {
				out.Resize = append(out.Resize, fmt.Sprintf("%s %d -> %d", u.set.Name, u.from, *u.set.Spec.Replicas))
			} else {
				note := fmt.Sprintf("%s revision %s history %s desired %s max %s", u.set.Name, u.set.Annotations[revisionAnnotation],
					u.set.Annotations[historyAnnotation], u.set.Annotations[desiredAnnotation], u.set.Annotations[maxAnnotation])
				if n := u.set.Spec.MinReadySeconds; n > 0 {
					note += fmt.Sprint(" ready for ", n)
				}
				out.Note = append(out.Note, note)
			}
		}
		for _, rs := range a.remove {
			out.Remove = append(out.Remove, rs.Name)
		}
		out.Revision = a.revision
		if s := a.status; s != nil {
			out.Counts = fmt.Sprintf("replicas %d updated %d available %d unavailable %d", s.Replicas, s.UpdatedReplicas, s.AvailableReplicas, s.UnavailableReplicas)
			for _, c := range s.Conditions {
				out.Conditions = append(out.Conditions, fmt.Sprintf("%s=%s %s", c.Type, c.Status, c.Reason))
			}
			slices.Sort(out.Conditions)
		}
		if a.again > 0 {
			out.Again = a.again.String()
		}
		return out
	})
}

func TestTemplateHashIsInNameSelectorAndLabels(t *testing.T) {
	d := input{Image: "web"}.world().deployment
	rs := newReplicaSet(d)
	hash := templateHash(&d.Spec.Template, nil)
	if rs.Name != "web-"+hash || rs.Labels[appsv1.DefaultDeploymentUniqueLabelKey] != hash ||
		rs.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] != hash ||
		rs.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] != hash {
		t.Errorf("hash %s is missing somewhere: %+v", hash, rs)
	}
	if other := templateHash(&d.Spec.Template, ptr.To[int32](1)); other == hash {
		t.Error("a collision count makes no other hash")
	}
	if _, ok := d.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey]; ok {
		t.Error("the Deployment's own template was changed")
	}
}
