package statefulset

import (
	"fmt"
	"slices"
	"strings"
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
	Ordinal  int             `json:"ordinal"`
	Image    string          `json:"image"`
	State    string          `json:"state"` // ready (the default), starting, pending, failed
	Leaving  bool            `json:"leaving"`
	Bare     bool            `json:"bare"`     // without the labels of its identity
	ReadyFor metav1.Duration `json:"readyFor"` // an hour by default
}

type input struct {
	Spec      appsv1.StatefulSetSpec `json:"spec"`
	Image     string                 `json:"image"`
	Current   string                 `json:"current"`   // image of the current revision
	Revisions []string               `json:"revisions"` // images, oldest first
	Pods      []podInput             `json:"pods"`
	Deleting  bool                   `json:"deleting"`
	Lost      []string               `json:"lost"` // claims that are not there
}

type output struct {
	Revision string   `json:"revision,omitempty"`
	Identify []string `json:"identify,omitempty"`
	Claims   []string `json:"claims,omitempty"`
	Create   []string `json:"create,omitempty"` // name and image
	Scaled   []string `json:"scaled,omitempty"`
	Remove   []string `json:"remove,omitempty"`
	Drop     []string `json:"drop,omitempty"`
	Counts   string   `json:"counts,omitempty"`
	Again    string   `json:"again,omitempty"`
}

func templateOf(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "db"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}
}

func revision(set *appsv1.StatefulSet, image string, number int64) *appsv1.ControllerRevision {
	raw, err := history.Data(ptr.To(templateOf(image)))
	if err != nil {
		panic(err)
	}
	return history.New(set, kind, map[string]string{"app": "db"}, raw, number, nil)
}

func (in input) world(t testing.TB) world {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db", UID: "set"}, Spec: in.Spec}
	set.Spec.Template = templateOf(in.Image)
	if in.Deleting {
		set.DeletionTimestamp = &metav1.Time{Time: epoch}
	}
	w := world{set: set, now: epoch, claimed: func(claim string) bool { return !slices.Contains(in.Lost, claim) }}
	for i, image := range in.Revisions {
		w.revisions = append(w.revisions, revision(set, image, int64(i+1)))
	}
	if in.Current != "" {
		set.Status.CurrentRevision = revision(set, in.Current, 0).Name
	}
	for _, p := range in.Pods {
		pod, err := newPod(set, revision(set, p.Image, 0), p.Ordinal)
		if err != nil {
			t.Fatal(err)
		}
		pod.Status.Phase = corev1.PodRunning
		switch p.State {
		case "":
			age := p.ReadyFor.Duration
			if age == 0 {
				age = time.Hour
			}
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(epoch.Add(-age))}}
		case "pending":
			pod.Status.Phase = corev1.PodPending
		case "failed":
			pod.Status.Phase = corev1.PodFailed
		}
		if p.Bare {
			pod.Labels = map[string]string{appsv1.ControllerRevisionHashLabelKey: revisionOf(pod)}
		}
		if p.Leaving {
			pod.DeletionTimestamp = &metav1.Time{Time: epoch}
		}
		w.pods = append(w.pods, pod)
	}
	return w
}

func names(pods []*corev1.Pod, image bool) []string {
	var all []string
	for _, pod := range pods {
		name := pod.Name
		if image {
			name += " " + pod.Spec.Containers[0].Image
		}
		all = append(all, name)
	}
	return all
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		w := in.world(t)
		todo, err := plan(w)
		if err != nil {
			t.Fatal(err)
		}
		image := map[string]string{}
		for _, i := range append(in.Revisions, in.Image) {
			image[revision(w.set, i, 0).Name] = i
		}
		out := output{Identify: names(todo.identify, false), Create: names(todo.create, true), Scaled: names(todo.scaled, false), Remove: names(todo.remove, false)}
		for _, lost := range todo.claims {
			out.Claims = append(out.Claims, lost.claim.Name)
		}
		switch c := todo.revision; {
		case c.Create:
			out.Revision = fmt.Sprintf("create %d", c.Revision.Revision)
		case c.Raise:
			out.Revision = fmt.Sprintf("raise to %d", c.Revision.Revision)
		}
		for _, r := range todo.drop {
			out.Drop = append(out.Drop, image[r.Name])
		}
		if s := todo.status; s != nil {
			out.Counts = fmt.Sprintf("%d replicas, %d ready, %d available, %d of %s, %d of %s", s.Replicas, s.ReadyReplicas, s.AvailableReplicas,
				s.CurrentReplicas, image[s.CurrentRevision], s.UpdatedReplicas, image[s.UpdateRevision])
		}
		if todo.again > 0 {
			out.Again = todo.again.String()
		}
		return out
	})
}

func TestPodHasItsIdentity(t *testing.T) {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db", UID: "set"}}
	set.Spec.ServiceName = "peers"
	set.Spec.Template = templateOf("db:1")
	set.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data"}, {Name: "other"}}
	set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
	pod, err := newPod(set, revision(set, "db:1", 1), 4)
	if err != nil {
		t.Fatal(err)
	}
	pod.Spec.Volumes = withClaims(set, set.Spec.Template.Spec.Volumes, 4)
	if pod.Name != "db-4" || pod.Spec.Hostname != "db-4" || pod.Spec.Subdomain != "peers" || pod.Labels["apps.kubernetes.io/pod-index"] != "4" ||
		pod.Labels["statefulset.kubernetes.io/pod-name"] != "db-4" {
		t.Errorf("identity: %+v", pod)
	}
	if v := pod.Spec.Volumes; len(v) != 2 || v[0].PersistentVolumeClaim.ClaimName != "data-db-4" || v[1].Name != "other" {
		t.Errorf("volumes: %+v", v)
	}
}

func TestClaimsFollowTheRetentionPolicy(t *testing.T) {
	const del = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", UID: "set"}}
	set.Spec.Replicas, set.Spec.Ordinals = ptr.To[int32](2), &appsv1.StatefulSetOrdinals{Start: 1}
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	}
	foreign := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "x"}
	before := metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "db-2", UID: "old"}
	uids := func(owners []metav1.OwnerReference) (all []string) {
		for _, o := range owners {
			all = append(all, string(o.UID))
		}
		return all
	}
	for _, c := range []struct {
		policy *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy
		pod    *corev1.Pod
		have   []metav1.OwnerReference
		want   string
	}{
		{nil, pod("db-3"), []metav1.OwnerReference{foreign}, "x"},
		{&appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: del}, pod("db-3"), nil, "set"},
		{&appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: del}, pod("db-3"), []metav1.OwnerReference{foreign}, "x db-3"},
		{&appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: del}, pod("db-0"), nil, "db-0"},
		{&appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: del}, pod("db-2"), []metav1.OwnerReference{before}, ""},
		{&appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: del, WhenDeleted: del}, pod("db-3"), nil, "db-3"},
		{&appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: del, WhenDeleted: del}, pod("db-2"), []metav1.OwnerReference{before}, "set"},
		{&appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: del}, nil, []metav1.OwnerReference{before}, ""},
	} {
		set.Spec.PersistentVolumeClaimRetentionPolicy = c.policy
		if got := strings.Join(uids(claimOwners(set, c.pod, c.have)), " "); got != c.want {
			t.Errorf("%+v, %v: owners %q, want %q", c.policy, c.pod, got, c.want)
		}
	}
}
