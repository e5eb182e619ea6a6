package census

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// stored is how the API writes an object.
func stored(t testing.TB, object runtime.Object) []byte {
	t.Helper()
	var out bytes.Buffer
	kinds, _, err := scheme.Scheme.ObjectKinds(object)
	if err != nil {
		t.Fatal(err)
	}
	object.GetObjectKind().SetGroupVersionKind(kinds[0])
	if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(object, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func put(t testing.TB, store *raftstore.Store, key string, value []byte) {
	t.Helper()
	if _, err := store.Apply(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Kind: raftstore.OpPut, Key: key, Value: value}}}); err != nil {
		t.Fatal(err)
	}
}

func TestCountPods(t *testing.T) {
	store := raftstoretest.New(t)
	if c := CountPods(store.View()); c.All != 0 || len(c.On) != 0 || !c.Earliest.IsZero() {
		t.Errorf("of none: %+v", c)
	}
	early, late := time.Unix(1e9, 0), time.Unix(2e9, 0)
	for i, p := range []struct {
		node  string
		phase corev1.PodPhase
		made  time.Time
		gates []corev1.PodSchedulingGate
	}{
		{"n1", corev1.PodRunning, late, nil},
		{"n1", corev1.PodRunning, late, nil},
		{"n1", corev1.PodPending, late, nil},
		{"n1", corev1.PodSucceeded, late, nil},
		{"n2", corev1.PodFailed, late, nil},
		{"n2", corev1.PodUnknown, late, nil},
		{"", corev1.PodPending, late, nil},
		{"", corev1.PodPending, early, nil},
		{"", "", late, nil},                // made a moment ago
		{"", corev1.PodFailed, early, nil}, // it was evicted before it had a node
		{"", corev1.PodPending, early.Add(-1), []corev1.PodSchedulingGate{{Name: "example.com/wait"}}},
	} {
		name := fmt.Sprintf("p%d", i)
		put(t, store, "/registry/pods/default/"+name, stored(t, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", CreationTimestamp: metav1.NewTime(p.made), Labels: map[string]string{"a": "b"}},
			Spec:       corev1.PodSpec{NodeName: p.node, SchedulingGates: p.gates, Containers: []corev1.Container{{Name: "c", Image: "i"}}, Priority: new(int32)},
			Status:     corev1.PodStatus{Phase: p.phase, PodIP: "10.0.0.1", Message: "m", ObservedGeneration: 3},
		}))
	}
	put(t, store, "/registry/pods/default/broken", []byte("k8s\x00\xff\xff"))
	put(t, store, "/registry/pods/default/other", []byte(`{"kind":"Pod"}`))
	put(t, store, "/registry/podtemplates/default/x", []byte("k8s\x00"))
	got := CountPods(store.View())
	want := Count{Pods: Pods{Running: 2, All: 8, Ended: 3}, On: map[string]Pods{
		"n1": {Running: 2, All: 3, Ended: 1}, "n2": {All: 1, Ended: 1},
	}, Waiting: 3, Earliest: early}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestNodes(t *testing.T) {
	store := raftstoretest.New(t)
	put(t, store, "/registry/nodes/n1", stored(t, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1"},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{"10.42.0.0/24"}, Unschedulable: true},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse},
			{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue},
			{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Message: "no network"},
		}},
	}))
	put(t, store, "/registry/nodes/n2", stored(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}))
	put(t, store, "/registry/nodes/n3", []byte("k8s\x00\xff"))
	want := map[string]Node{
		"n1": {Name: "n1", Ready: corev1.ConditionFalse, Message: "no network", Cordoned: true, Subnets: []string{"10.42.0.0/24"}, Pressure: []string{"DiskPressure"}},
		"n2": {Name: "n2", Ready: corev1.ConditionUnknown},
	}
	if got := Nodes(store.View()); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// FuzzReadPod: what lies in the store never ends the node, whatever it is.
func FuzzReadPod(f *testing.F) {
	whole := stored(f, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0))},
		Spec:       corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	})
	f.Add(whole)
	f.Add(slices.Concat(whole[:20], whole[25:]))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, ok := readPod(data)
		var wrapped runtime.Unknown
		var full corev1.Pod
		if !bytes.HasPrefix(data, storedMagic) || wrapped.Unmarshal(data[len(storedMagic):]) != nil || full.Unmarshal(wrapped.Raw) != nil {
			return // then it is no matter what is read
		}
		if ok && len(wrapped.Raw) > 0 && (p.node != full.Spec.NodeName || p.phase != string(full.Status.Phase)) {
			t.Errorf("read %+v of %s on %s", p, full.Status.Phase, full.Spec.NodeName)
		}
	})
}

func BenchmarkCountPods(b *testing.B) {
	store := raftstoretest.New(b)
	value := stored(b, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", CreationTimestamp: metav1.Now()},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"},
	})
	const pods = 10_000
	for i := range pods {
		put(b, store, fmt.Sprintf("/registry/pods/default/p%d", i), value)
	}
	for b.Loop() {
		if c := CountPods(store.View()); c.All != pods {
			b.Fatal(c.All)
		}
	}
}
