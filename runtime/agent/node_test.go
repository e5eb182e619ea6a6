package agent

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"kontiki/runtime/image"
)

// TestEventsOfTheNode: a new boot of the machine and what an operator says of new pods are
// told once each, in upstream's words.
func TestEventsOfTheNode(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	node.Status.NodeInfo.BootID = "before"
	client, events := fake.NewClientset(node), record.NewFakeRecorder(10)
	cfg := Config{NodeName: "n1", Client: client, Address: func() []netip.Addr { return nil }, NetworkReady: func() error { return nil }, DataDir: t.TempDir(), MaxPods: 1}
	a := &Agent{cfg: cfg, log: slog.New(slog.DiscardHandler), host: hostFacts{BootID: "now"}, events: events}
	store, err := image.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	a.images = nodeImages{images: store}
	cordon := func(off bool) {
		n, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err == nil {
			n.Spec.Unschedulable = off
			_, err = client.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	fails := 2 // the Node says what booted last, and cannot be written at first
	client.PrependReactor("update", "nodes", func(ktesting.Action) (bool, runtime.Object, error) {
		if fails == 0 {
			return false, nil, nil
		}
		fails--
		return true, nil, errors.New("no quorum")
	})
	for range 2 {
		if _, err := a.syncNode(t.Context()); err == nil {
			t.Fatal("a Node that cannot be written was")
		}
	}
	for _, off := range []bool{false, false, true, true, false} {
		cordon(off)
		if _, err := a.syncNode(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing has changed since: nothing is written, whatever the clock says.
	client.ClearActions()
	if _, err := a.syncNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, action := range client.Actions() {
		if action.GetVerb() != "get" {
			t.Errorf("a Node of which nothing has changed: %s of its %s/%s", action.GetVerb(), action.GetResource().Resource, action.GetSubresource())
		}
	}
	close(events.Events)
	var got []string
	for e := range events.Events {
		got = append(got, e)
	}
	want := []string{"Warning Rebooted Node n1 has been rebooted, boot id: now", "Normal NodeNotSchedulable Node n1 status is now: NodeNotSchedulable", "Normal NodeSchedulable Node n1 status is now: NodeSchedulable"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
