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
	"pgregory.net/rapid"

	"kontiki/controllers/history"
	"kontiki/controllers/plantest"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type podInput struct {
	Ordinal  int             `json:"ordinal"`
	Image    string          `json:"image"`
	State    string          `json:"state"` // ready (the default), starting, failed
	Leaving  bool            `json:"leaving"`
	ReadyFor metav1.Duration `json:"readyFor"` // an hour by default
}

type input struct {
	Spec      appsv1.StatefulSetSpec `json:"spec"`
	Image     string                 `json:"image"`
	Current   string                 `json:"current"`   // image of the current revision
	Revisions []string               `json:"revisions"` // images, oldest first
	Pods      []podInput             `json:"pods"`
	Deleting  bool                   `json:"deleting"`
}

type output struct {
	Revision string   `json:"revision,omitempty"`
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
	w := world{set: set, now: epoch}
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
		case "failed":
			pod.Status.Phase = corev1.PodFailed
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
		out := output{Create: names(todo.create, true), Scaled: names(todo.scaled, false), Remove: names(todo.remove, false)}
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
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-2", UID: "pod"}}
	foreign := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "x"}
	uids := func(owners []metav1.OwnerReference) (all []string) {
		for _, o := range owners {
			all = append(all, string(o.UID))
		}
		return all
	}
	for _, c := range []struct {
		policy    *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy
		condemned *corev1.Pod
		have      []metav1.OwnerReference
		want      string
	}{
		{nil, pod, []metav1.OwnerReference{foreign}, "x"},
		{&appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: del}, pod, nil, "set"},
		{&appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: del}, pod, []metav1.OwnerReference{foreign}, "x pod"},
		{&appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: del}, nil, []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "db-2", UID: "old"}}, ""},
	} {
		set.Spec.PersistentVolumeClaimRetentionPolicy = c.policy
		if got := strings.Join(uids(claimOwners(set, c.condemned, c.have)), " "); got != c.want {
			t.Errorf("%+v: owners %q, want %q", c.policy, got, c.want)
		}
	}
}

// TestOrderAndAvailabilityHold runs sets through random events, stale plans and
// crashes between actions. An ordered set makes a pod only when all before it are up;
// no more than maxUnavailable pods that were up are taken down for an update; nothing
// below the partition changes; and left alone it arrives.
func TestOrderAndAvailabilityHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, pods: map[string]*corev1.Pod{}}
		m.set = &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", UID: "set"}}
		m.set.Spec.Template = templateOf("db:0")
		m.set.Spec.Replicas = ptr.To(rapid.Int32Range(0, 5).Draw(t, "replicas"))
		if rapid.Bool().Draw(t, "parallel") {
			m.set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
		}
		m.set.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To(rapid.Int32Range(0, 3).Draw(t, "partition"))}
		m.settle()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 8).Draw(t, "step") {
			case 0:
				m.set.Spec.Template = templateOf(fmt.Sprintf("db:%d", rapid.IntRange(0, 2).Draw(t, "template")))
			case 1:
				m.set.Spec.Replicas = ptr.To(rapid.Int32Range(0, 5).Draw(t, "scale"))
			case 2, 3, 4:
				m.act(rapid.IntRange(0, 4).Draw(t, "crash"))
			default:
				m.podEvent()
			}
		}
		m.settle()
	})
}

type model struct {
	t         *rapid.T
	set       *appsv1.StatefulSet
	revisions []*appsv1.ControllerRevision
	pods      map[string]*corev1.Pod
	made      int
}

func (m *model) world() world {
	w := world{set: m.set.DeepCopy(), revisions: m.revisions, now: epoch}
	for _, name := range m.names() {
		w.pods = append(w.pods, m.pods[name])
	}
	return w
}

func (m *model) names() []string {
	var all []string
	for name := range m.pods {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func up(pod *corev1.Pod) bool {
	return pod != nil && pod.DeletionTimestamp == nil && len(pod.Status.Conditions) > 0
}

func (m *model) act(crash int) bool {
	todo, err := plan(m.world())
	if err != nil {
		m.t.Fatal(err)
	}
	step := func() bool { crash--; return crash >= 0 }
	if c := todo.revision; (c.Create || c.Raise) && step() {
		m.revisions = slices.DeleteFunc(slices.Clone(m.revisions), func(r *appsv1.ControllerRevision) bool { return r.Name == c.Revision.Name })
		m.revisions = append(m.revisions, c.Revision)
	}
	for _, pod := range todo.create {
		if !step() {
			break
		}
		if m.pods[pod.Name] != nil {
			m.t.Fatalf("%s is made while there is one", pod.Name)
		}
		_, ordinal := parse(pod.Name)
		for before := range ordinal {
			if ordered(m.set) && !up(m.pods[fmt.Sprintf("db-%d", before)]) {
				m.t.Fatalf("%s is made while db-%d is not up", pod.Name, before)
			}
		}
		m.made++
		pod.UID = types.UID(fmt.Sprint(m.made))
		m.pods[pod.Name] = pod
	}
	taken := 0
	for _, pod := range todo.remove {
		if _, ordinal := parse(pod.Name); up(pod) && ordinal < partition(m.set) {
			m.t.Fatalf("%s is below the partition and taken", pod.Name)
		}
		if up(pod) {
			taken++
		}
	}
	if taken > 1 {
		m.t.Fatalf("%d pods that were up are taken at once", taken)
	}
	for _, pod := range append(todo.scaled, todo.remove...) {
		if step() {
			gone := m.pods[pod.Name].DeepCopy()
			gone.DeletionTimestamp = &metav1.Time{Time: epoch}
			m.pods[pod.Name] = gone
		}
	}
	for _, r := range todo.drop {
		if step() {
			m.revisions = slices.DeleteFunc(slices.Clone(m.revisions), func(have *appsv1.ControllerRevision) bool { return have.Name == r.Name })
		}
	}
	if todo.status != nil && step() {
		m.set.Status = *todo.status
	}
	return !todo.revision.Create && !todo.revision.Raise && len(todo.create)+len(todo.scaled)+len(todo.remove)+len(todo.drop) == 0 && todo.status == nil
}

// podEvent lets one pod come up, end, or be gone for good.
func (m *model) podEvent() {
	all := m.names()
	if len(all) == 0 {
		return
	}
	name := rapid.SampledFrom(all).Draw(m.t, "pod")
	pod := m.pods[name].DeepCopy()
	switch {
	case pod.DeletionTimestamp != nil:
		delete(m.pods, name)
		return
	case up(pod):
		pod.Status = corev1.PodStatus{Phase: corev1.PodFailed}
	default:
		makeReady(pod)
	}
	m.pods[name] = pod
}

func makeReady(pod *corev1.Pod) {
	if pod.Status.Phase != corev1.PodFailed {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
}

func (m *model) settle() {
	for range 200 {
		idle := m.act(1 << 20)
		for _, name := range m.names() {
			pod := m.pods[name].DeepCopy()
			if pod.DeletionTimestamp != nil {
				delete(m.pods, name)
				idle = false
				continue
			}
			idle = idle && up(pod)
			makeReady(pod)
			m.pods[name] = pod
		}
		if idle {
			if len(m.pods) != int(*m.set.Spec.Replicas) {
				m.t.Fatalf("settled with %d pods, want %d", len(m.pods), *m.set.Spec.Replicas)
			}
			return
		}
	}
	m.t.Fatalf("does not settle: %+v", m.set.Status)
}
