package replicaset

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"
)

// TestReplicationControllerIsPlannedAsItsReplicaSet: what it wants is planned, and
// its status comes back whole, so that nothing is written twice.
func TestReplicationControllerIsPlannedAsItsReplicaSet(t *testing.T) {
	rc := &corev1.ReplicationController{Spec: corev1.ReplicationControllerSpec{
		Replicas: ptr.To[int32](3), Selector: map[string]string{"app": "web"},
		Template: &corev1.PodTemplateSpec{},
	}}
	rc.Generation = 2
	rc.Spec.Template.Labels = rc.Spec.Selector
	rs, now := asReplicaSet(rc), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if todo := plan(rs, nil, nil, now); todo.create != 3 {
		t.Errorf("creates %d pods, want 3", todo.create)
	}
	status, _ := statusOf(rs, nil, trouble{"FailedCreate", "quota"}, now)
	rc.Status = replicationStatus(status)
	if len(rc.Status.Conditions) != 1 || rc.Status.ObservedGeneration != 2 {
		t.Errorf("status %+v", rc.Status)
	}
	if again := replicationStatus(asReplicaSet(rc).Status); !equality.Semantic.DeepEqual(again, rc.Status) {
		t.Errorf("status differs after a round:\n%+v\n%+v", again, rc.Status)
	}
}
