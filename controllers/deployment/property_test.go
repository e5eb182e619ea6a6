package deployment

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

// model is an API with one Deployment, whose ReplicaSets reach their size pod by
// pod in any order, and whose controller may crash between any two writes.
type model struct {
	t    *rapid.T
	d    *appsv1.Deployment
	sets map[string]*appsv1.ReplicaSet
	now  time.Time
}

func (m *model) world() world {
	w := world{deployment: m.d, now: m.now}
	for _, rs := range m.sets {
		w.sets = append(w.sets, rs)
	}
	return w
}

// act carries out what was planned, up to a crash.
func (m *model) act(a actions, crash int) {
	step := func() bool { crash--; return crash >= 0 }
	if a.create != nil && step() {
		if _, exists := m.sets[a.create.Name]; !exists {
			rs := a.create.DeepCopy()
			rs.UID = types.UID(rs.Name)
			rs.CreationTimestamp = metav1.NewTime(m.now)
			m.sets[rs.Name] = rs
		}
	}
	for _, u := range a.update {
		if step() {
			m.sets[u.set.Name] = u.set.DeepCopy()
		}
	}
	for _, rs := range a.remove {
		if step() {
			delete(m.sets, rs.Name)
		}
	}
	d := m.d.DeepCopy()
	if a.revision != "" && step() {
		d.Annotations = map[string]string{revisionAnnotation: a.revision}
	}
	if a.status != nil && step() {
		d.Status = *a.status
	}
	m.d = d
}

// pods lets one ReplicaSet make, lose or get ready one pod, as its controller does.
func (m *model) pods() {
	if len(m.sets) == 0 {
		return
	}
	rs := m.sets[rapid.SampledFrom(slices.Sorted(maps.Keys(m.sets))).Draw(m.t, "set")].DeepCopy()
	s := &rs.Status
	switch want := *rs.Spec.Replicas; {
	case s.Replicas < want:
		s.Replicas++
	case s.Replicas > want:
		s.Replicas--
		s.AvailableReplicas = min(s.AvailableReplicas, s.Replicas)
	case s.AvailableReplicas < want:
		s.AvailableReplicas++
	}
	s.ReadyReplicas = s.AvailableReplicas
	m.sets[rs.Name] = rs
}

func (m *model) total(of func(*appsv1.ReplicaSet) int32) (sum int32) {
	for _, rs := range m.sets {
		sum += of(rs)
	}
	return sum
}

// TestNeverOverSurgeNorUnderAvailability rolls out under random orders of events
// and crashes. With a size that does not change, there are never more pods than
// replicas + maxSurge, nor, once all were there, fewer available ones than
// replicas - maxUnavailable; and left alone, every rollout completes.
func TestNeverOverSurgeNorUnderAvailability(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int32Range(1, 8).Draw(t, "replicas")
		surge := rapid.IntRange(0, 3).Draw(t, "maxSurge")
		unavailable := rapid.IntRange(0, 3).Draw(t, "maxUnavailable")
		m := &model{t: t, sets: map[string]*appsv1.ReplicaSet{}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		m.d = input{Image: "web:0"}.world().deployment
		m.d.Spec.Replicas = &n
		m.d.Spec.ProgressDeadlineSeconds = ptr.To[int32](600)
		m.d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{
			MaxSurge: ptr.To(intstr.FromInt(surge)), MaxUnavailable: ptr.To(intstr.FromInt(unavailable)),
		}
		m.settle()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			m.now = m.now.Add(time.Second)
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				d := m.d.DeepCopy()
				d.Spec.Template = templateOf(fmt.Sprintf("web:%d", rapid.IntRange(0, 3).Draw(t, "template")))
				d.Generation++
				m.d = d
			case 1, 2, 3:
				m.act(plan(m.world()), rapid.IntRange(0, 5).Draw(t, "crash"))
			default:
				m.pods()
			}
			m.check()
		}
		m.settle()
	})
}

func (m *model) check() {
	n := replicas(m.d)
	if pods := m.total(wanted); pods > n+maxSurge(m.d) {
		m.t.Fatalf("%d pods wanted, %d and %d more are allowed", pods, n, maxSurge(m.d))
	}
	if available := m.total(availableOf); available < n-maxUnavailable(m.d) {
		m.t.Fatalf("%d pods available of %d, %d may be unavailable", available, n, maxUnavailable(m.d))
	}
}

// settle goes on until the rollout is complete and planning wants nothing more.
func (m *model) settle() {
	for range 500 {
		m.now = m.now.Add(time.Second)
		a := plan(m.world())
		m.act(a, 1<<20)
		idle := a.create == nil && len(a.update) == 0 && len(a.remove) == 0 && a.revision == "" && a.status == nil
		if idle && complete(m.d, m.d.Status) {
			return
		}
		for _, rs := range m.sets {
			n, grown := *rs.Spec.Replicas, rs.DeepCopy()
			grown.Status.Replicas, grown.Status.AvailableReplicas, grown.Status.ReadyReplicas = n, n, n
			m.sets[rs.Name] = grown
		}
	}
	m.t.Fatalf("rollout does not complete: %+v", m.d.Status)
}
