package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"kontiki/raftstore"
)

// Events of the cluster itself stand at the Nodes that they are about, where kubectl
// describe node and kubectl get events show them. What pods, Nodes and controllers do is
// told by others.

// eventComponent is the source of these events.
const eventComponent = "kontiki"

// memberEvent is something that happened to a member.
type memberEvent struct {
	id, kind, reason, message string
}

// memberEvents are what an operator would ask about between two lists of members.
func memberEvents(before, after []raftstore.Member) (out []memberEvent) {
	was, is := map[string]raftstore.Member{}, map[string]raftstore.Member{}
	for _, m := range before {
		was[m.ID] = m
	}
	for _, m := range after {
		is[m.ID] = m
		old, known := was[m.ID]
		switch {
		case !known:
			out = append(out, memberEvent{m.ID, corev1.EventTypeNormal, "MemberJoined", "The node has a replica of the cluster's state"})
		case m.Voter && !old.Voter:
			out = append(out, memberEvent{m.ID, corev1.EventTypeNormal, "VoteGiven", "The node votes from now on"})
		case !m.Voter && old.Voter:
			out = append(out, memberEvent{m.ID, corev1.EventTypeNormal, "VoteTaken", "The node votes no more; it stays a replica"})
		}
	}
	for _, m := range before {
		if _, stays := is[m.ID]; !stays {
			out = append(out, memberEvent{m.ID, corev1.EventTypeWarning, "MemberLeft", "The node was taken out of the Raft group; see kontiki members"})
		}
	}
	return out
}

// nodeRecorder writes events about Nodes until ctx ends.
func nodeRecorder(ctx context.Context, client kubernetes.Interface) (record.EventRecorder, func()) {
	return recorder(ctx, client, eventComponent)
}

// recorder writes a component's events until ctx ends.
func recorder(ctx context.Context, client kubernetes.Interface, component string) (record.EventRecorder, func()) {
	b := record.NewBroadcaster(record.WithContext(ctx))
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	return b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component}), b.Shutdown
}

// nodeReference is a Node as the kubelet names it in its events.
func nodeReference(name string) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", Name: name, UID: types.UID(name)}
}

// awaitNamespace returns once the namespace is there that events of Nodes are in: a cluster
// that was just founded makes it while its first leader begins. False when ctx has ended.
func awaitNamespace(ctx context.Context, client kubernetes.Interface) bool {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{ResourceVersion: "0"}); err == nil {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

// tellMembers has events for what happens to members while this node leads.
func (n *node) tellMembers(ctx context.Context, client kubernetes.Interface) error {
	known := n.store.Members()
	if !awaitNamespace(ctx, client) {
		return nil
	}
	events, stop := nodeRecorder(ctx, client)
	defer stop()
	events.Eventf(nodeReference(n.cfg.Name), corev1.EventTypeNormal, "LeaderElection", "%s became leader", n.cfg.Name)
	for {
		changed := n.store.MembersChanged()
		view, now := n.store.View(), n.store.Members()
		for _, e := range memberEvents(known, now) {
			name := n.nameOf(view, e.id)
			if r, removed := removalOf(view, e.id); removed && name == "" {
				name = r.Name
			}
			if name != "" {
				events.Event(nodeReference(name), e.kind, e.reason, e.message)
			}
		}
		known = now
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// tellRefills has events for refills of this node's replica.
func (n *node) tellRefills(ctx context.Context, client kubernetes.Interface) error {
	events, stop := nodeRecorder(ctx, client)
	defer stop()
	for {
		select {
		case why := <-n.refills:
			events.Event(nodeReference(n.cfg.Name), corev1.EventTypeWarning, "ReplicaRefilled", fmt.Sprintf("The node's replica was damaged and filled anew; if that happens again, its memory should be replaced: %v", why))
		case <-ctx.Done():
			return nil
		}
	}
}

// refilled is told by the store, and must not wait.
func (n *node) refilled(why error) {
	select {
	case n.refills <- why:
	default: // several at once are one
	}
}
