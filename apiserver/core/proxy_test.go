package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestAddressesOfPods is what a Service's proxy may ask.
func TestAddressesOfPods(t *testing.T) {
	addresses := []string{"10.244.0.2", "fd00::2", "127.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "0.0.0.0", "fe80::1"}
	pod := &corev1.Pod{}
	for _, a := range addresses {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: a})
	}
	for i, a := range append(addresses, "10.244.0.3") {
		if got, want := has(pod, a), i < 2; got != want {
			t.Errorf("%s: %v, want %v", a, got, want)
		}
	}
}
