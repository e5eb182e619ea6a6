package disruption

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	scalefake "k8s.io/client-go/scale/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"kontiki/controllers/scaletarget"
)

type kinds struct{ meta.RESTMapper }

func (kinds) Reset() {}

// withOwners is a controller to which owners of each kind are known: ReplicaSets and a StatefulSet from
// caches, Fleets by their scale. Rocks have no size.
func withOwners(t *testing.T, objects ...runtime.Object) *controller {
	t.Helper()
	group := schema.GroupVersion{Group: "example.com", Version: "v1"}
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{group, appsv1.SchemeGroupVersion})
	mapper.Add(group.WithKind("Fleet"), meta.RESTScopeNamespace)
	mapper.Add(group.WithKind("Rock"), meta.RESTScopeNamespace)
	mapper.Add(appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), meta.RESTScopeNamespace)
	client := fake.NewClientset(objects...)
	client.Resources = []*metav1.APIResourceList{
		{GroupVersion: group.String(), APIResources: []metav1.APIResource{
			{Name: "fleets", Kind: "Fleet"}, {Name: "fleets/scale", Kind: "Scale"}, {Name: "rocks", Kind: "Rock"},
		}},
		{GroupVersion: "apps/v1", APIResources: []metav1.APIResource{{Name: "replicasets", Kind: "ReplicaSet"}, {Name: "replicasets/scale", Kind: "Scale"}}},
	}
	scales := &scalefake.FakeScaleClient{}
	scales.AddReactor("get", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		name := action.(clienttesting.GetAction).GetName()
		if name != "there" && name != "unseen" {
			return true, nil, apierrors.NewNotFound(action.GetResource().GroupResource(), name)
		}
		return true, &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u"}, Spec: autoscalingv1.ScaleSpec{Replicas: 3}}, nil
	})
	shared := informers.NewSharedInformerFactory(client, 0)
	c := New(client, shared, &scaletarget.Targets{Scales: scales, Mapper: kinds{mapper}}, record.NewFakeRecorder(10), slog.New(slog.DiscardHandler), time.Now)
	apps := shared.Apps().V1()
	named := func(name string, owners ...metav1.OwnerReference) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), OwnerReferences: owners}
	}
	of := []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "web", Controller: ptr.To(true)}}
	for informer, objects := range map[cache.SharedIndexInformer][]any{
		apps.Deployments().Informer(): {&appsv1.Deployment{ObjectMeta: named("web"), Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](4)}}},
		apps.ReplicaSets().Informer(): {
			&appsv1.ReplicaSet{ObjectMeta: named("web-old", of...), Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](1)}},
			&appsv1.ReplicaSet{ObjectMeta: named("web-new", of...), Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](3)}},
			&appsv1.ReplicaSet{ObjectMeta: named("lone"), Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](7)}},
		},
		apps.StatefulSets().Informer(): {&appsv1.StatefulSet{ObjectMeta: named("db"), Spec: appsv1.StatefulSetSpec{Replicas: ptr.To[int32](5)}}},
	} {
		for _, o := range objects {
			if err := informer.GetIndexer().Add(o); err != nil {
				t.Fatal(err)
			}
		}
	}
	return &controller{c, shared}
}

type controller struct {
	*Controller
	shared informers.SharedInformerFactory
}

func ownedBy(apiVersion, kind, name string, uid types.UID) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: apiVersion, Kind: kind, Name: name, UID: uid, Controller: ptr.To(true)},
	}}}
}

// TestOwners: the controllers of a budget's pods count once each, a Deployment for all
// its ReplicaSets; one that is not there leaves the whole unknown, as upstream.
func TestOwners(t *testing.T) {
	c := withOwners(t)
	bare := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "bare"}}
	const custom = "example.com/v1"
	for name, test := range map[string]struct {
		pods        []*corev1.Pod
		want, alone int
		err         string
	}{
		"a custom one":                         {pods: []*corev1.Pod{ownedBy(custom, "Fleet", "there", "u")}, want: 3},
		"a custom one of that name":            {pods: []*corev1.Pod{ownedBy(custom, "Fleet", "there", "old")}, err: `found no controllers for pod "p"`},
		"a custom one that is gone":            {pods: []*corev1.Pod{ownedBy(custom, "Fleet", "gone", "g")}, err: `found no controllers for pod "p"`},
		"a custom one without sizes":           {pods: []*corev1.Pod{ownedBy(custom, "Rock", "gone", "r")}, err: "rocks.example.com does not implement the scale subresource"},
		"a Deployment in the middle of change": {pods: []*corev1.Pod{ownedBy("apps/v1", "ReplicaSet", "web-old", "web-old"), ownedBy("apps/v1", "ReplicaSet", "web-new", "web-new")}, want: 4},
		"several": {
			pods: []*corev1.Pod{ownedBy("apps/v1", "ReplicaSet", "web-new", "web-new"), ownedBy("apps/v1", "StatefulSet", "db", "db"), ownedBy("apps/v1", "StatefulSet", "db", "db"), ownedBy(custom, "Fleet", "there", "u")},
			want: 4 + 5 + 3,
		},
		"a ReplicaSet of its own":               {pods: []*corev1.Pod{ownedBy("apps/v1", "ReplicaSet", "lone", "lone")}, want: 7},
		"a ReplicaSet that no cache shows yet":  {pods: []*corev1.Pod{ownedBy("apps/v1", "ReplicaSet", "unseen", "u")}, want: 3},
		"a ReplicaSet that is gone":             {pods: []*corev1.Pod{ownedBy("apps/v1", "ReplicaSet", "gone", "gone")}, err: `found no controllers for pod "p"`},
		"one of several is gone":                {pods: []*corev1.Pod{ownedBy("apps/v1", "ReplicaSet", "lone", "lone"), ownedBy("apps/v1", "ReplicaSet", "gone", "gone")}, err: `found no controllers for pod "p"`},
		"none at all":                           {pods: []*corev1.Pod{bare, bare}, alone: 2},
		"none for one of them":                  {pods: []*corev1.Pod{bare, ownedBy("apps/v1", "ReplicaSet", "lone", "lone")}, want: 7, alone: 1},
		"a kind that nobody serves":             {pods: []*corev1.Pod{ownedBy("example.org/v1", "Ghost", "g", "g")}, err: `no matches for kind "Ghost"`},
		"a ReplicaSet of that name, of another": {pods: []*corev1.Pod{ownedBy("apps/v1", "ReplicaSet", "lone", "before")}, err: `found no controllers for pod "p"`},
	} {
		sum, alone, err := c.expected(t.Context(), test.pods)
		if sum != test.want || alone != test.alone || (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %d, %d alone, %v; want %d, %d alone, %s", name, sum, alone, err, test.want, test.alone, test.err)
		}
	}
}

// TestNothingIsEvictedWhileAnOwnerIsGone: the status says so, and in events it is said why.
func TestNothingIsEvictedWhileAnOwnerIsGone(t *testing.T) {
	c := withOwners(t)
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{}},
		Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1},
	}
	for informer, object := range map[cache.SharedIndexInformer]any{c.budgetInformer: budget, c.podInformer: ownedBy("apps/v1", "ReplicaSet", "gone", "gone")} {
		if err := informer.GetIndexer().Add(object); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.client.PolicyV1().PodDisruptionBudgets("default").Create(t.Context(), budget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.sync(t.Context(), "default/b"); err != nil {
		t.Fatal(err)
	}
	got, err := c.client.PolicyV1().PodDisruptionBudgets("default").Get(t.Context(), "b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	condition := meta.FindStatusCondition(got.Status.Conditions, policyv1.DisruptionAllowedCondition)
	if got.Status.DisruptionsAllowed != 0 || condition == nil || condition.Reason != policyv1.SyncFailedReason || condition.Message != `found no controllers for pod "p"` {
		t.Errorf("status %+v", got.Status)
	}
	const want = `Warning CalculateExpectedPodCountFailed Failed to calculate the number of expected pods: found no controllers for pod "p"`
	if e := <-c.events.(*record.FakeRecorder).Events; e != want {
		t.Errorf("event %q, want %q", e, want)
	}
}

// TestAControllerThatComesIsCounted when its event comes, without time passing.
func TestAControllerThatComesIsCounted(t *testing.T) {
	late := ownedBy("apps/v1", "ReplicaSet", "late", "late")
	late.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{}},
	}
	c := withOwners(t, late, budget)
	ctx, cancel := context.WithCancel(t.Context())
	c.shared.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		c.shared.Shutdown()
	}()
	reason := func() string {
		got, err := c.client.PolicyV1().PodDisruptionBudgets("default").Get(ctx, "b", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if condition := meta.FindStatusCondition(got.Status.Conditions, policyv1.DisruptionAllowedCondition); condition != nil {
			return condition.Reason
		}
		return ""
	}
	await := func(want string) {
		t.Helper()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for end := time.After(20 * time.Second); reason() != want; {
			select {
			case <-tick.C:
			case <-end:
				t.Fatalf("waited 20 s for %s, the reason is %q", want, reason())
			}
		}
	}
	await(policyv1.SyncFailedReason)
	came := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "late", UID: "late"}, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](1)}}
	if _, err := c.client.AppsV1().ReplicaSets("default").Create(ctx, came, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(policyv1.SufficientPodsReason)
}

// TestWhatNoEventTellsIsAskedForAgain: kinds that are not served, but not what is gone.
func TestWhatNoEventTellsIsAskedForAgain(t *testing.T) {
	for kind, again := range map[string]bool{"Ghost": true, "Fleet": false} {
		c := withOwners(t)
		budget := &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
			Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{}},
		}
		for informer, object := range map[cache.SharedIndexInformer]any{c.budgetInformer: budget, c.podInformer: ownedBy("example.com/v1", kind, "gone", "gone")} {
			if err := informer.GetIndexer().Add(object); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.client.PolicyV1().PodDisruptionBudgets("default").Create(t.Context(), budget, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := c.sync(t.Context(), "default/b"); (err != nil) != again {
			t.Errorf("%s: sync says %v, want an error: %v", kind, err, again)
		}
	}
}
