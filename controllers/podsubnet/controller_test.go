package podsubnet

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

// TestExhaustedRange: a node for which there is no subnet is told so once, however often
// that is found anew, and gets one when another node has gone.
func TestExhaustedRange(t *testing.T) {
	client := fake.NewClientset()
	shared := informers.NewSharedInformerFactory(client, 0)
	events := record.NewFakeRecorder(10)
	c, err := New(client, shared, events, slog.New(slog.DiscardHandler), netip.MustParsePrefix("10.42.0.0/23"), 24)
	if err != nil {
		t.Fatal(err)
	}
	var nodes []*corev1.Node
	for i := range 4 {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i), UID: types.UID(fmt.Sprint("u", i))}}
		if i < 2 {
			node.Spec.PodCIDRs = []string{fmt.Sprintf("10.42.%d.0/24", i)}
		}
		nodes = append(nodes, node)
		if _, err := client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := c.informer.GetIndexer().Add(node); err != nil {
			t.Fatal(err)
		}
	}
	pass := func(wantEvents int) {
		t.Helper()
		if err := c.sync(t.Context(), allNodes); err != nil {
			t.Fatal(err)
		}
		if n := len(events.Events); n != wantEvents {
			t.Errorf("%d events, want %d", n, wantEvents)
		}
	}
	pass(2)
	pass(2)
	if !c.waiting.Load() {
		t.Error("it does not wait for room")
	}
	if err := c.informer.GetIndexer().Delete(nodes[0]); err != nil {
		t.Fatal(err)
	}
	pass(3)
	for range 2 {
		<-events.Events
	}
	if e := <-events.Events; e != "Normal SubnetGranted Pods of the node get addresses of 10.42.0.0/24" {
		t.Errorf("the grant's event is %q", e)
	}
	got, err := client.CoreV1().Nodes().Get(t.Context(), "n2", metav1.GetOptions{})
	if err != nil || got.Spec.PodCIDR != "10.42.0.0/24" {
		t.Errorf("n2 has %q, %v; want the subnet that n0 had", got.Spec.PodCIDR, err)
	}
}

// TestLeftAddresses: only a pod that had an address makes room by losing it.
func TestLeftAddresses(t *testing.T) {
	with := &corev1.Pod{Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.42.0.2"}}}}
	ended := with.DeepCopy()
	ended.Status.Phase = corev1.PodSucceeded
	without := &corev1.Pod{}
	for name, test := range map[string]struct {
		before, after *corev1.Pod
		want          bool
	}{
		"made":                  {nil, without, false},
		"bound":                 {without, without, false},
		"started":               {without, with, false},
		"goes on":               {with, with, false},
		"ended":                 {with, ended, true},
		"gone":                  {with, nil, true},
		"gone after it ended":   {ended, nil, false},
		"gone without starting": {without, nil, false},
	} {
		if got := leftAddresses(test.before, test.after); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
