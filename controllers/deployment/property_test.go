package deployment

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"kontiki/controllers/plantest"
)

// TestNeverOverSurgeNorUnderAvailability rolls out under random orders of events, plans made
// from caches that are behind the API and each other, and crashes between any two writes.
// With a size that does not change, there are never more pods than replicas + maxSurge, nor,
// once all were there, fewer available ones than replicas - maxUnavailable; and left alone,
// every rollout completes.
func TestNeverOverSurgeNorUnderAvailability(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		m.settle()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			m.now = m.now.Add(time.Second)
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				d := m.d.DeepCopy()
				d.Spec.Template = templateOf(fmt.Sprintf("web:%d", rapid.IntRange(0, 3).Draw(t, "template")))
				d.Generation++
				m.setDeployment(d)
			case 1:
				d := m.d.DeepCopy()
				d.Spec.Paused = !d.Spec.Paused
				d.Generation++
				m.setDeployment(d)
			case 2, 3, 4:
				m.act(rapid.IntRange(0, 5).Draw(t, "crash"))
			default:
				m.pods()
			}
			m.check()
		}
		if m.d.Spec.Paused {
			d := m.d.DeepCopy()
			d.Spec.Paused = false
			m.setDeployment(d)
		}
		m.settle()
	})
}

// model is an API with one Deployment, whose ReplicaSets reach their size pod by
// pod in any order, and whose controller may crash between any two writes.
type model struct {
	t       *rapid.T
	d       *appsv1.Deployment
	sets    map[string]*appsv1.ReplicaSet
	now     time.Time
	version int

	// What there was, oldest first, and how much of it each cache has shown: a cache may be
	// behind, but never goes back. The controller waits for what it wrote to ReplicaSets.
	allDeployments             []*appsv1.Deployment
	allSets                    []stored
	shownDeployment, shownSets int
	written                    int
}

// stored are all ReplicaSets as of a version.
type stored struct {
	version int
	sets    map[string]*appsv1.ReplicaSet
}

func newModel(t *rapid.T) *model {
	m := &model{t: t, sets: map[string]*appsv1.ReplicaSet{}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	d := input{Image: "web:0"}.world().deployment
	d.Spec.Replicas = ptr.To(rapid.Int32Range(1, 8).Draw(t, "replicas"))
	d.Spec.ProgressDeadlineSeconds, d.Spec.RevisionHistoryLimit = ptr.To[int32](600), ptr.To(rapid.Int32Range(0, 2).Draw(t, "history"))
	d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{
		MaxSurge:       ptr.To(intstr.FromInt(rapid.IntRange(0, 3).Draw(t, "maxSurge"))),
		MaxUnavailable: ptr.To(intstr.FromInt(rapid.IntRange(0, 3).Draw(t, "maxUnavailable"))),
	}
	m.setDeployment(d)
	m.store()
	return m
}

func (m *model) stamp(o metav1.Object) {
	m.version++
	o.SetResourceVersion(strconv.Itoa(m.version))
}

func (m *model) setDeployment(d *appsv1.Deployment) {
	m.stamp(d)
	m.d, m.allDeployments = d, append(m.allDeployments, d)
}

func (m *model) setSet(rs *appsv1.ReplicaSet) {
	m.stamp(rs)
	m.sets[rs.Name] = rs
	m.store()
}

func (m *model) store() { m.allSets = append(m.allSets, stored{m.version, maps.Clone(m.sets)}) }

// restart has whoever leads now list what there is.
func (m *model) restart() {
	m.shownDeployment, m.shownSets, m.written = len(m.allDeployments)-1, len(m.allSets)-1, 0
}

// world is what the caches show: some of what has happened since.
func (m *model) world() world {
	m.shownDeployment = rapid.IntRange(m.shownDeployment, len(m.allDeployments)-1).Draw(m.t, "deployment shown")
	m.shownSets = rapid.IntRange(m.shownSets, len(m.allSets)-1).Draw(m.t, "sets shown")
	w := world{deployment: m.allDeployments[m.shownDeployment], now: m.now}
	shown := m.allSets[m.shownSets].sets
	for _, name := range slices.Sorted(maps.Keys(shown)) {
		w.sets = append(w.sets, shown[name])
	}
	return w
}

// act plans, and carries out what was planned up to a crash, or to what the API refuses.
func (m *model) act(writes int) (idle bool) {
	w := m.world()
	if m.written > m.allSets[m.shownSets].version {
		return false
	}
	a := plan(w)
	if m.write(w.deployment, a, plantest.Crash{After: writes}) {
		m.restart()
	}
	return a.create == nil && len(a.update) == 0 && len(a.remove) == 0 && a.revision == "" && a.status == nil
}

func (m *model) write(d *appsv1.Deployment, a actions, crash plantest.Crash) (crashes bool) {
	if a.create != nil {
		if !crash.Write() {
			return true
		}
		if m.sets[a.create.Name] == nil {
			rs := a.create.DeepCopy()
			rs.UID = types.UID(rs.Name)
			rs.CreationTimestamp = metav1.NewTime(m.now)
			m.setSet(rs)
		}
		m.written = m.version
	}
	for _, u := range a.update {
		if !crash.Write() {
			return true
		}
		if now := m.sets[u.set.Name]; now == nil || now.ResourceVersion != u.set.ResourceVersion {
			return false
		}
		m.setSet(u.set.DeepCopy())
		m.written = m.version
	}
	for _, rs := range a.remove {
		if !crash.Write() {
			return true
		}
		if now := m.sets[rs.Name]; now != nil && now.ResourceVersion != rs.ResourceVersion {
			return false
		}
		delete(m.sets, rs.Name)
		m.version++
		m.store()
	}
	if a.revision == "" && a.status == nil {
		return false
	}
	update := d.DeepCopy()
	if a.revision != "" {
		update.Annotations = map[string]string{revisionAnnotation: a.revision}
	}
	if a.status != nil {
		update.Status = *a.status
	}
	if !crash.Write() {
		return true
	}
	if m.d.ResourceVersion == d.ResourceVersion {
		m.setDeployment(update)
	}
	return false
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
	default:
		return
	}
	s.ReadyReplicas = s.AvailableReplicas
	m.setSet(rs)
}

func (m *model) total(of func(*appsv1.ReplicaSet) int32) (sum int32) {
	for _, rs := range m.sets {
		sum += of(rs)
	}
	return sum
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
		m.restart()
		if m.act(1<<20) && complete(m.d, m.d.Status) {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(m.sets)) {
			n, grown := *m.sets[name].Spec.Replicas, m.sets[name].DeepCopy()
			grown.Status.Replicas, grown.Status.AvailableReplicas, grown.Status.ReadyReplicas = n, n, n
			m.setSet(grown)
		}
	}
	m.t.Fatalf("rollout does not complete: %+v", m.d.Status)
}
