package endpointslice

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"kontiki/controllers/plantest"
)

type input struct {
	Service  corev1.Service               `json:"service"`
	Pods     []*corev1.Pod                `json:"pods"`
	Existing []*discoveryv1.EndpointSlice `json:"existing"`
	Zones    map[string]string            `json:"zones"`
}

type output struct {
	Create []*discoveryv1.EndpointSlice `json:"create,omitempty"`
	Update []*discoveryv1.EndpointSlice `json:"update,omitempty"`
	Remove []string                     `json:"remove,omitempty"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		a := plan(&in.Service, in.Pods, in.Existing, func(node string) string { return in.Zones[node] })
		out := output{Create: a.Create, Update: a.Update}
		for _, slice := range a.Remove {
			out.Remove = append(out.Remove, slice.Name)
		}
		return out
	})
}

// TestSlicesSayWhereThePodsAre plays pods that come and go and checks that carrying
// the plan out says exactly what there is, in slices of at most 100, and that a
// second plan has nothing to do.
func TestSlicesSayWhereThePodsAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "s"},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.43.0.1", Ports: []corev1.ServicePort{{Port: 80}}},
		}
		none := func(string) string { return "" }
		var existing []*discoveryv1.EndpointSlice
		made := 0
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			var pods []*corev1.Pod
			first, n := rapid.IntRange(0, 250).Draw(t, "first"), rapid.IntRange(0, 250).Draw(t, "pods")
			for i := first; i < first+n; i++ {
				pods = append(pods, &corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("p", i), UID: types.UID(fmt.Sprint("u", i))},
					Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.42.%d.%d", i/250, i%250+1)},
				})
			}
			a := plan(service, pods, existing, none)
			next := map[string]*discoveryv1.EndpointSlice{}
			for _, slice := range existing {
				next[slice.Name] = slice
			}
			for _, slice := range a.Remove {
				delete(next, slice.Name)
			}
			for _, slice := range a.Update {
				next[slice.Name] = slice
			}
			for _, slice := range a.Create {
				made++
				slice.Name = fmt.Sprintf("web-%04d", made)
				next[slice.Name] = slice
			}
			existing = nil
			seen := map[string]bool{}
			for _, slice := range next {
				existing = append(existing, slice)
				if len(slice.Endpoints) > maxEndpoints {
					t.Fatalf("%d endpoints in one slice", len(slice.Endpoints))
				}
				for _, e := range slice.Endpoints {
					if seen[e.TargetRef.Name] {
						t.Fatalf("%s is in two slices", e.TargetRef.Name)
					}
					seen[e.TargetRef.Name] = true
				}
			}
			if len(seen) != n || len(existing) == 0 {
				t.Fatalf("%d pods, %d endpoints in %d slices", n, len(seen), len(existing))
			}
			if again := plan(service, pods, existing, none); len(again.Create)+len(again.Update)+len(again.Remove) != 0 {
				t.Fatalf("a second plan still writes: %+v", again)
			}
		}
	})
}

func TestAddressFamily(t *testing.T) {
	pod := &corev1.Pod{Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.42.0.2"}, {IP: "fd00::2"}}}}
	if got := strings.Join(addressesOf(pod, discoveryv1.AddressTypeIPv6), ","); got != "fd00::2" {
		t.Errorf("IPv6 address of the pod: %q", got)
	}
	if got := strings.Join(addressesOf(pod, discoveryv1.AddressTypeIPv4), ","); got != "10.42.0.2" {
		t.Errorf("IPv4 address of the pod: %q", got)
	}
}
