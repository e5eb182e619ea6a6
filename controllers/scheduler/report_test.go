package scheduler

import (
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"
)

// silent has nobody hear events.
type silent struct{}

func (silent) As(string) events.EventRecorder { return &events.FakeRecorder{} }

// TestAConflictIsNoDeparture: a victim that could not be told to leave is tried again,
// unless it left and another pod has its name.
func TestAConflictIsNoDeparture(t *testing.T) {
	pod := func(uid types.UID) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "victim", UID: uid}}
	}
	for name, test := range map[string]struct {
		there []runtime.Object
		again bool
	}{
		"still there":          {[]runtime.Object{pod("v")}, true},
		"another has its name": {[]runtime.Object{pod("w")}, false},
		"gone":                 {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(test.there...)
			client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewConflict(corev1.Resource("pods"), "victim", nil)
			})
			s := New(client, informers.NewSharedInformerFactory(client, 0), silent{}, slog.New(slog.DiscardHandler), time.Now)
			d := decision{placed: &placed{pod: pod("p")}, room: room{node: "a", victims: []*placed{{pod: pod("v")}}}}
			if err := s.evict(t.Context(), d); (err != nil) != test.again {
				t.Errorf("error %v, tried again: want %v", err, test.again)
			}
		})
	}
}
