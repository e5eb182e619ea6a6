package endpointslice

import (
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/podview"
)

// TestSaysSinceWhenItChanged: EndpointSlices say when the first change happened that they show: the
// Service's own time at first, then that of a pod which became ready; none if no time moved on.
func TestSaysSinceWhenItChanged(t *testing.T) {
	at := func(second int) metav1.Time { return metav1.NewTime(time.Unix(int64(second), 0)) }
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "s", CreationTimestamp: at(1)},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.43.0.1", Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}
	pod := func(name, ip string, ready int) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "u", Labels: service.Spec.Selector},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at(ready)}}},
		}
	}
	client := fake.NewClientset()
	shared := informers.NewSharedInformerFactory(client, 0)
	if err := shared.Core().V1().Pods().Informer().AddIndexers(podview.Indexers()); err != nil {
		t.Fatal(err)
	}
	c := New(client, shared, record.NewFakeRecorder(10), slog.New(slog.DiscardHandler), time.Now)
	for _, step := range []struct {
		what string
		pod  *corev1.Pod
		want string
	}{
		{"a new Service", pod("a", "10.42.0.2", 2), "1970-01-01T00:00:01Z"},
		{"nothing, so nothing is written", pod("a", "10.42.0.2", 2), "1970-01-01T00:00:01Z"},
		{"a pod that became ready elsewhere", pod("a", "10.42.0.3", 5), "1970-01-01T00:00:05Z"},
		{"an address, at no time that is known", pod("a", "10.42.0.4", 5), ""},
	} {
		written, err := client.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var seen []any
		for i := range written.Items {
			seen = append(seen, &written.Items[i])
		}
		for informer, objects := range map[interface{ GetStore() cache.Store }][]any{c.serviceInformer: {service}, c.podInformer: {step.pod}, c.sliceInformer: seen} {
			if err := informer.GetStore().Replace(objects, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.sync(t.Context(), "default/web"); err != nil {
			t.Fatal(err)
		}
		if written, err = client.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
		if len(written.Items) != 1 || written.Items[0].Annotations[corev1.EndpointsLastChangeTriggerTime] != step.want {
			t.Errorf("after %s, %d are there: %v", step.what, len(written.Items), written.Items)
		}
	}
}
