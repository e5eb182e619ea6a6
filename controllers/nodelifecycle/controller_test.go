package nodelifecycle

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

// TestEventsOfNodes: a Node that comes and one that goes are told of; those that a new leader
// finds are not greeted again.
func TestEventsOfNodes(t *testing.T) {
	now := time.Unix(1e9, 5e8)
	client := fake.NewClientset()
	events := record.NewFakeRecorder(10)
	c := New(client, informers.NewSharedInformerFactory(client, 0), nil, events, slog.New(slog.DiscardHandler), func() time.Time { return now })
	made := func(at time.Time) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1", CreationTimestamp: metav1.NewTime(at.Truncate(time.Second))}}
	}
	c.tellNode(nil, made(now.Add(-time.Minute)))
	c.tellNode(nil, made(now))
	c.tellNode(made(now), made(now))
	c.tellNode(made(now), nil)
	close(events.Events)
	var got []string
	for e := range events.Events {
		got = append(got, e)
	}
	want := []string{"Normal RegisteredNode Node n1 event: Registered Node n1 in Controller", "Normal RemovingNode Node n1 event: Removing Node n1 from Controller"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
