package podgc

import (
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// TestTheAPIHasTheLastWordOnNodes: whatever the cache shows, pods are removed for good only
// if the API itself says that their node is gone, or out of service.
func TestTheAPIHasTheLastWordOnNodes(t *testing.T) {
	node := func(out bool) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
		if out {
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
		}
		return n
	}
	for name, c := range map[string]struct {
		cached, there *corev1.Node
		removed       bool
	}{
		"gone":                                {nil, nil, true},
		"not seen yet":                        {nil, node(false), false},
		"out of service":                      {node(true), node(true), true},
		"out of service, and taken back":      {node(true), node(false), false},
		"out of service, and gone since then": {node(true), nil, false},
		"in service":                          {node(false), node(false), false},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "p", UID: "p", DeletionTimestamp: &metav1.Time{Time: time.Unix(1, 0)}, Finalizers: []string{"example.com/stays"},
		}, Spec: corev1.PodSpec{NodeName: "n"}}
		client := fake.NewClientset(pod)
		if c.there != nil {
			client = fake.NewClientset(pod, c.there)
		}
		shared := informers.NewSharedInformerFactory(client, 0)
		now := time.Unix(100, 0)
		gc := New(client, shared, slog.New(slog.DiscardHandler), func() time.Time { return now })
		if err := gc.podInformer.GetIndexer().Add(pod); err != nil {
			t.Fatal(err)
		}
		if c.cached != nil {
			if err := gc.nodeInformer.GetIndexer().Add(c.cached); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // a node that is missing is not gone at once
			if err := gc.sync(t.Context(), allPods); err != nil {
				t.Fatal(err)
			}
			now = now.Add(quarantine)
		}
		_, err := client.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
		if apierrors.IsNotFound(err) != c.removed {
			t.Errorf("%s: removed %v, want %v (%v)", name, !c.removed, c.removed, err)
		}
	}
}
