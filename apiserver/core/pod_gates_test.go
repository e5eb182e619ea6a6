package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A pod that is held back says so from its first moment, as upstream's does.
func TestAGatedPodSaysSo(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{SchedulingGates: []corev1.PodSchedulingGate{{Name: "example.com/wait"}}}}
	preparePod(t.Context(), pod, nil)
	if len(pod.Status.Conditions) != 1 || pod.Status.Conditions[0].Reason != corev1.PodReasonSchedulingGated || pod.Status.Conditions[0].Status != corev1.ConditionFalse {
		t.Errorf("its conditions are %+v", pod.Status.Conditions)
	}
	free := &corev1.Pod{}
	if preparePod(t.Context(), free, nil); len(free.Status.Conditions) != 0 {
		t.Errorf("a pod without gates says %+v", free.Status.Conditions)
	}
}
