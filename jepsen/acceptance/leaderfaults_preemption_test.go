package acceptance

import (
	"context"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A pod takes the room of a less important one, which needs some seconds to leave: that is when the
// leader falls out. The next one finds a nomination and a pod that leaves.

// most is a request that leaves no room for another like it on a node.
func (r *round) most(ctx context.Context) (string, error) {
	node, err := r.client.CoreV1().Nodes().Get(ctx, r.via.Name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%dm", node.Status.Allocatable.Cpu().MilliValue()*6/10), nil
}

// fill puts a pod on via that takes most of it, and does not hear that it should leave: it is PID 1
// and has no handler of SIGTERM.
func (r *round) fill(t *testing.T) {
	t.Helper()
	most, err := r.most(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = r.manifest(t.Context(), `
apiVersion: v1
kind: Pod
metadata: {name: ROUND-filler, labels: {app: ROUND-filler}}
spec:
  nodeName: `+r.via.Name+`
  terminationGracePeriodSeconds: 15
  containers: [{name: c, image: "kontiki.local/busybox:v1", command: [sleep, "1000000"], resources: {requests: {cpu: `+most+`}}}]
`)
	if err != nil {
		t.Fatal(err)
	}
	r.waitFor(t, r.client, "app="+r.template()+"-filler", 1)
}

func (r *round) beginPreemption(ctx context.Context) error {
	most, err := r.most(ctx)
	if err != nil {
		return err
	}
	return r.manifest(ctx, `
apiVersion: v1
kind: Pod
metadata: {name: ROUND-urgent}
spec:
  priorityClassName: urgent
  terminationGracePeriodSeconds: 1
  nodeSelector: {kubernetes.io/hostname: `+r.via.Name+`}
  containers: [{name: c, image: "kontiki.local/web:v1", resources: {requests: {cpu: `+most+`}}}]
`)
}

// makingRoom: the less important pod was told to leave, and is there; the other waits for its room.
func (r *round) makingRoom(ctx context.Context) error {
	pods := r.client.CoreV1().Pods("default")
	filler, err := pods.Get(ctx, r.template()+"-filler", metav1.GetOptions{})
	if err != nil {
		return err
	}
	urgent, err := pods.Get(ctx, r.template()+"-urgent", metav1.GetOptions{})
	if err == nil && (filler.DeletionTimestamp == nil || urgent.Status.NominatedNodeName != r.via.Name || urgent.Spec.NodeName != "") {
		err = fmt.Errorf("one is deleted at %v, the other nominated for %q and on %q", filler.DeletionTimestamp, urgent.Status.NominatedNodeName, urgent.Spec.NodeName)
	}
	return err
}

// preempted: the one is gone and the other runs, and it alone had to go.
func (r *round) preempted(ctx context.Context) error {
	pods := r.client.CoreV1().Pods("default")
	if _, err := pods.Get(ctx, r.template()+"-filler", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return errors.Join(err, errors.New("the less important pod is there"))
	}
	urgent, err := pods.Get(ctx, r.template()+"-urgent", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !isReady(urgent) || urgent.Spec.NodeName != r.via.Name {
		return fmt.Errorf("the important pod is %s on %q", urgent.Status.Phase, urgent.Spec.NodeName)
	}
	all, err := pods.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, pod := range all.Items {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.DisruptionTarget && c.Reason == corev1.PodReasonPreemptionByScheduler {
				return fmt.Errorf("%s has to go, too", pod.Name)
			}
		}
	}
	return nil
}
