package apiserver

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"kontiki/raftstore/raftstoretest"
)

// TestAnEventBecomesASeries as the scheduler makes it one: told by events.k8s.io, counted by
// a patch, and shown by core's events, too.
func TestAnEventBecomesASeries(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	defaultNamespace(t, clientOf(t, s, admin))
	scheduler := clientOf(t, s, &user.DefaultInfo{Name: user.KubeScheduler, Groups: []string{user.AllAuthenticated}})
	now := metav1.NewMicroTime(time.Now().Truncate(time.Microsecond))
	_, err := scheduler.EventsV1().Events("default").Create(t.Context(), &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p.1"}, EventTime: now, ReportingController: "default-scheduler", ReportingInstance: "default-scheduler-n1",
		Action: "Scheduling", Reason: "FailedScheduling", Regarding: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"}, Note: "0/1 nodes", Type: "Warning",
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = scheduler.EventsV1().Events("default").Patch(t.Context(), "p.1", types.StrategicMergePatchType,
		[]byte(`{"series":{"count":7,"lastObservedTime":"2026-01-02T03:04:05.000006Z"}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := clientOf(t, s, admin).CoreV1().Events("default").Get(t.Context(), "p.1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Series == nil || got.Series.Count != 7 || got.Series.LastObservedTime.Year() != 2026 || got.Message != "0/1 nodes" || got.Action != "Scheduling" || !got.EventTime.Equal(&now) {
		t.Errorf("event %+v", got)
	}
}
