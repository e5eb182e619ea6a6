package replicaset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"kontiki/controllers/pending"
	"kontiki/controllers/podview"
)

// TestNeverMorePodsThanWanted: pods fail, users delete them, the caches are behind the API and
// each other, writes are refused, and the controller crashes between any two of them: never
// are there more active pods than were ever wanted, and left alone there are as many as are.
func TestNeverMorePodsThanWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		defer m.end()
		m.highest = *m.rs.Spec.Replicas
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			m.step(rapid.IntRange(0, 9).Draw(t, "step"), true)
		}
		m.settle()
	})
}

// TestNeverFewerPodsThanWanted: where pods go by no other cause, never are there fewer, once
// there were enough, than were ever wanted.
func TestNeverFewerPodsThanWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		defer m.end()
		m.highest = *m.rs.Spec.Replicas
		m.settle()
		m.lowest = *m.rs.Spec.Replicas
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			m.step(rapid.IntRange(0, 9).Draw(t, "step"), false)
		}
		m.settle()
	})
}

// model is an API with one ReplicaSet, and its controller, whose caches show what the test has
// them show.
type model struct {
	t               *rapid.T
	c               *Controller
	rs              *appsv1.ReplicaSet
	pods            map[string]*corev1.Pod
	version         int
	left            int // writes until they fail
	lowest, highest int32
	wrong           string // what must not be; reactors run in goroutines of the controller
	sets            cache.Indexer
}

func newModel(t *rapid.T) *model {
	m := &model{t: t, pods: map[string]*corev1.Pod{}}
	m.rs = &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "rs", ResourceVersion: "0"}}
	m.rs.Spec = appsv1.ReplicaSetSpec{Replicas: ptr.To(rapid.Int32Range(1, 6).Draw(t, "replicas")), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}
	m.rs.Spec.Template.Labels = m.rs.Spec.Selector.MatchLabels
	client := fake.NewClientset()
	client.PrependReactor("*", "*", m.react)
	shared := informers.NewSharedInformerFactory(client, 0)
	if err := shared.Core().V1().Pods().Informer().AddIndexers(podview.Indexers()); err != nil {
		t.Fatal(err)
	}
	m.c = New(client, shared, &record.FakeRecorder{}, slog.New(slog.DiscardHandler), func() time.Time { return time.Unix(1e9, 0) })
	m.sets = shared.Apps().V1().ReplicaSets().Informer().GetIndexer()
	m.show()
	return m
}

// end lets the controller's queue end.
func (m *model) end() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.c.Run(ctx); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) showSet() {
	if err := m.sets.Replace([]any{m.rs}, m.rs.ResourceVersion); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) showPods() {
	var objects []any
	for _, name := range slices.Sorted(maps.Keys(m.pods)) {
		objects = append(objects, m.pods[name])
	}
	if err := m.c.pods.Pods.GetIndexer().Replace(objects, strconv.Itoa(m.version)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) show() { m.showSet(); m.showPods() }

func (m *model) step(what int, fails bool) {
	switch what {
	case 0:
		m.showSet()
	case 1, 2:
		m.showPods()
	case 3:
		m.scale(rapid.Int32Range(0, 6).Draw(m.t, "to"))
	case 4, 5, 6:
		m.podEvent(fails)
	default:
		m.sync(rapid.IntRange(0, 5).Draw(m.t, "writes"), rapid.Bool().Draw(m.t, "crashes"))
	}
}

func (m *model) scale(to int32) {
	m.version++
	m.rs = m.rs.DeepCopy()
	m.rs.Spec.Replicas, m.rs.ResourceVersion = &to, strconv.Itoa(m.version)
	m.highest, m.lowest = max(m.highest, to), min(m.lowest, to)
}

func (m *model) set(pod *corev1.Pod) {
	m.version++
	pod.ResourceVersion = strconv.Itoa(m.version)
	m.pods[pod.Name] = pod
}

// podEvent lets one pod become ready, be gone for good or, if pods may go by themselves, fail
// or be deleted by a user.
func (m *model) podEvent(fails bool) {
	if len(m.pods) == 0 {
		return
	}
	pod := m.pods[rapid.SampledFrom(slices.Sorted(maps.Keys(m.pods))).Draw(m.t, "pod")].DeepCopy()
	switch {
	case pod.DeletionTimestamp != nil:
		m.version++
		delete(m.pods, pod.Name)
		return
	case fails && rapid.Bool().Draw(m.t, "fails"):
		pod.Status.Phase = corev1.PodFailed
	case fails && rapid.Bool().Draw(m.t, "is deleted"):
		pod.DeletionTimestamp = &metav1.Time{Time: time.Unix(1e9, 0)}
	default:
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	m.set(pod)
}

// sync has the controller work until its writes fail; if it crashes then, its successor lists
// what there is and remembers nothing.
func (m *model) sync(writes int, crashes bool) {
	m.left = writes
	err := m.c.sync(context.Background(), "default/web")
	if m.wrong != "" {
		m.t.Fatal(m.wrong)
	}
	if err != nil && m.left >= 0 && !apierrors.IsConflict(err) {
		m.t.Fatal(err)
	}
	if crashes {
		m.c.pods.Writes = pending.New()
		m.show()
	}
}

func (m *model) react(action clienttesting.Action) (bool, runtime.Object, error) {
	if m.left--; m.left < 0 {
		return true, nil, errors.New("no more")
	}
	switch a := action.(type) {
	case clienttesting.CreateActionImpl:
		pod := a.Object.(*corev1.Pod).DeepCopy()
		pod.Name = fmt.Sprint(pod.GenerateName, m.version)
		pod.UID = types.UID(pod.Name)
		m.set(pod)
		if n := m.active(); n > m.highest {
			m.wrong = fmt.Sprintf("%d pods, %d were wanted at most", n, m.highest)
		}
		return true, pod.DeepCopy(), nil
	case clienttesting.DeleteActionImpl:
		pod := m.pods[a.Name]
		if pod == nil {
			return true, nil, apierrors.NewNotFound(corev1.Resource("pods"), a.Name)
		}
		if pod = pod.DeepCopy(); pod.DeletionTimestamp == nil {
			pod.DeletionTimestamp = &metav1.Time{Time: time.Unix(1e9, 0)}
			m.set(pod)
		}
		if n := m.active(); n < m.lowest {
			m.wrong = fmt.Sprintf("%d pods, %d were wanted at least", n, m.lowest)
		}
		return true, nil, nil
	case clienttesting.UpdateActionImpl:
		update := a.Object.(*appsv1.ReplicaSet).DeepCopy()
		if update.ResourceVersion != m.rs.ResourceVersion {
			return true, nil, apierrors.NewConflict(appsv1.Resource("replicasets"), "web", errors.New("it was changed"))
		}
		m.version++
		update.ResourceVersion = strconv.Itoa(m.version)
		m.rs = update
		return true, update.DeepCopy(), nil
	}
	m.wrong = fmt.Sprintf("nobody expected %+v", action)
	return true, nil, nil
}

func (m *model) active() (n int32) {
	for _, pod := range m.pods {
		if podview.Active(pod) {
			n++
		}
	}
	return n
}

func (m *model) settle() {
	for range 50 {
		m.show()
		before := m.version
		m.sync(1<<20, false)
		if m.version == before {
			if n := m.active(); n != *m.rs.Spec.Replicas || m.rs.Status.Replicas != n {
				m.t.Fatalf("settled with %d pods, %d are wanted, the status says %d", n, *m.rs.Spec.Replicas, m.rs.Status.Replicas)
			}
			return
		}
	}
	m.t.Fatal("does not settle")
}
