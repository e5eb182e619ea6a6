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
	"k8s.io/utils/ptr"
)

// TestEventsOfNodes: a Node that comes and one that goes are told of; those that a new leader
// finds are not greeted again.
func TestEventsOfNodes(t *testing.T) {
	now := time.Unix(1e9, 5e8)
	client := fake.NewClientset()
	events := record.NewFakeRecorder(10)
	c := New(client, informers.NewSharedInformerFactory(client, 0), nil, events, events, slog.New(slog.DiscardHandler), func() time.Time { return now })
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

// TestCancelledEvictionsAreTold: a pod that tolerates a taint for some time is told of if it need
// not leave, must leave sooner, or is gone before; not if it goes when its time has come.
func TestCancelledEvictionsAreTold(t *testing.T) {
	const cancelled, marked = "Normal TaintManagerEviction Cancelling deletion of Pod default/p", "Normal TaintManagerEviction Marking for deletion Pod default/p"
	start := time.Unix(1e9, 0)
	taint := func(key string) corev1.Taint {
		return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute, TimeAdded: ptr.To(metav1.NewTime(start))}
	}
	tolerated, other := []corev1.Taint{taint("tolerated")}, taint("other")
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "p"},
		Spec: corev1.PodSpec{NodeName: "n", Tolerations: []corev1.Toleration{{
			Key: "tolerated", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](60),
		}}},
	}
	forever := pod.DeepCopy()
	forever.Spec.Tolerations[0].TolerationSeconds = nil
	going := pod.DeepCopy()
	going.DeletionTimestamp = ptr.To(metav1.NewTime(start))
	type look struct {
		after  time.Duration
		pod    *corev1.Pod
		taints []corev1.Taint
	}
	for name, test := range map[string]struct {
		looks []look
		want  []string
	}{
		"the taint goes":               {[]look{{0, pod, tolerated}, {30 * time.Second, pod, nil}, {31 * time.Second, pod, nil}}, []string{cancelled}},
		"it is tolerated forever now":  {[]look{{0, pod, tolerated}, {30 * time.Second, forever, tolerated}}, []string{cancelled}},
		"another taint comes":          {[]look{{0, pod, tolerated}, {30 * time.Second, pod, append(tolerated[:1:1], other)}}, []string{cancelled, marked}},
		"the pod is deleted":           {[]look{{0, pod, tolerated}, {20 * time.Second, going, tolerated}, {30 * time.Second, nil, tolerated}}, []string{cancelled}},
		"its time has come":            {[]look{{0, pod, tolerated}, {60 * time.Second, pod, tolerated}, {61 * time.Second, nil, tolerated}}, []string{marked}},
		"nothing changes":              {[]look{{0, pod, tolerated}, {30 * time.Second, pod, tolerated}}, nil},
		"it never had to leave":        {[]look{{0, pod, nil}, {30 * time.Second, nil, nil}}, nil},
		"it is deleted, past its time": {[]look{{0, pod, tolerated}, {59 * time.Second, going, tolerated}, {61 * time.Second, nil, nil}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			now := start
			events := record.NewFakeRecorder(10)
			client := fake.NewClientset(pod)
			c := New(client, informers.NewSharedInformerFactory(client, 0), nil, record.NewFakeRecorder(10), events, slog.New(slog.DiscardHandler), func() time.Time { return now })
			for _, l := range test.looks {
				now = start.Add(l.after)
				var pods []*corev1.Pod
				if l.pod != nil {
					pods = append(pods, l.pod)
				}
				if err := c.evict(t.Context(), "n", pods, l.taints); err != nil {
					t.Fatal(err)
				}
			}
			close(events.Events)
			var got []string
			for e := range events.Events {
				got = append(got, e)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("told %q, want %q", got, test.want)
			}
		})
	}
}
