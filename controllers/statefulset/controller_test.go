package statefulset

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"kontiki/controllers/podview"
)

// fixture is a controller beside an API and the caches that it reads, which do not follow
// the API by themselves: each is as far behind as the test wants it.
type fixture struct {
	*Controller
	t   *testing.T
	api *fake.Clientset
}

// newFixture has a set of one pod, with a claim each, of which the cache knows an earlier
// status: that it was to have two.
func newFixture(t *testing.T, claim *corev1.PersistentVolumeClaim, pods ...*corev1.Pod) *fixture {
	t.Helper()
	const del = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db", UID: "set", Generation: 2}}
	set.Spec = appsv1.StatefulSetSpec{
		Replicas: ptr.To[int32](1), Template: templateOf("db:1"), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
		VolumeClaimTemplates:                 []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}},
		PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: del},
	}
	set.Status = appsv1.StatefulSetStatus{ObservedGeneration: 1, Replicas: 2}
	api := fake.NewClientset(set, claim)
	shared := informers.NewSharedInformerFactory(api, 0)
	indexer := shared.Core().V1().Pods().Informer()
	if err := indexer.AddIndexers(podview.Indexers()); err != nil {
		t.Fatal(err)
	}
	f := &fixture{New(api, shared, record.NewFakeRecorder(20), slog.New(slog.DiscardHandler), time.Now), t, api}
	f.cached(f.setInformer, set)
	f.cached(f.claimsInformer, claim)
	for _, pod := range pods {
		f.cached(indexer, pod)
		if err := api.Tracker().Add(pod); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *fixture) cached(informer cache.SharedIndexInformer, object any) {
	f.t.Helper()
	if err := informer.GetIndexer().Add(object); err != nil {
		f.t.Fatal(err)
	}
}

func podOf(t *testing.T, ordinal int) *corev1.Pod {
	t.Helper()
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db", UID: "set"}}
	pod, err := newPod(set, revision(set, "db:1", 1), ordinal)
	if err != nil {
		t.Fatal(err)
	}
	pod.UID = types.UID(pod.Name)
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	return pod
}

func claimOf(name string, owner string) *corev1.PersistentVolumeClaim {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	if pod, uid, owned := strings.Cut(owner, "/"); owned {
		claim.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod, UID: types.UID(uid)}}
	}
	return claim
}

func (f *fixture) owner(claim string) types.UID {
	f.t.Helper()
	now, err := f.api.CoreV1().PersistentVolumeClaims("default").Get(f.t.Context(), claim, metav1.GetOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	if len(now.OwnerReferences) != 1 {
		return ""
	}
	return now.OwnerReferences[0].UID
}

// TestAClaimStaysWithThePodThatWasScaledAway: though the cache does not show yet that the
// new size was seen, the claim of a pod that is on its way out for it is still that pod's.
func TestAClaimStaysWithThePodThatWasScaledAway(t *testing.T) {
	leaving := podOf(t, 1)
	leaving.DeletionTimestamp, leaving.Finalizers = &metav1.Time{Time: epoch}, []string{"example.com/stays"}
	f := newFixture(t, claimOf("data-db-1", "db-1/db-1"), podOf(t, 0), leaving)
	if err := f.sync(t.Context(), "default/db"); err != nil {
		t.Fatal(err)
	}
	if uid := f.owner("data-db-1"); uid != "db-1" {
		t.Errorf("the claim is owned by %q: nothing will delete it", uid)
	}
}

// TestAPodThatIsScaledAwayTakesItsClaim, and goes with the grace that it has: without it a
// second one of its name could run beside it.
func TestAPodThatIsScaledAwayTakesItsClaim(t *testing.T) {
	f := newFixture(t, claimOf("data-db-1", ""), podOf(t, 0), podOf(t, 1))
	if err := f.sync(t.Context(), "default/db"); err != nil {
		t.Fatal(err)
	}
	if uid := f.owner("data-db-1"); uid != "db-1" {
		t.Errorf("the claim is owned by %q", uid)
	}
	for _, action := range f.api.Actions() {
		if d, ok := action.(clienttesting.DeleteActionImpl); ok {
			if d.Name != "db-1" || d.DeleteOptions.GracePeriodSeconds != nil || *d.DeleteOptions.Preconditions.UID != "db-1" {
				t.Errorf("deletes %s with %+v", d.Name, d.DeleteOptions)
			}
			return
		}
	}
	t.Error("the pod is not deleted")
}

// TestAPodWaitsForAClaimThatGoes with the one of its name that was scaled away.
func TestAPodWaitsForAClaimThatGoes(t *testing.T) {
	f := newFixture(t, claimOf("data-db-0", "db-0/before"))
	if err := f.sync(t.Context(), "default/db"); err == nil || !strings.Contains(err.Error(), "waits for its claim data-db-0, which goes with") {
		t.Errorf("says %v", err)
	}
	if _, err := f.api.CoreV1().Pods("default").Get(t.Context(), "db-0", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pod was made on what goes away under it (%v)", err)
	}
	if err := f.api.CoreV1().PersistentVolumeClaims("default").Delete(t.Context(), "data-db-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.sync(t.Context(), "default/db"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.api.CoreV1().Pods("default").Get(t.Context(), "db-0", metav1.GetOptions{}); err != nil {
		t.Errorf("once the claim is gone the pod is not made: %v", err)
	}
}
