package resourcequota

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/controllers/plantest"
)

type input struct {
	Quota    corev1.ResourceQuota            `json:"quota"`
	Pods     []*corev1.Pod                   `json:"pods"`
	Services []*corev1.Service               `json:"services"`
	Claims   []*corev1.PersistentVolumeClaim `json:"claims"`
	Counts   map[corev1.ResourceName]int64   `json:"counts"`
}

type output struct {
	Used   map[string]string     `json:"used,omitempty"`
	Again  string                `json:"again,omitempty"`
	Lowers []corev1.ResourceName `json:"lowers,omitempty"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		w := world{quota: &in.Quota, pods: in.Pods, services: in.Services, claims: in.Claims, counts: in.Counts, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		status, again := plan(w)
		var out output
		if again > 0 {
			out.Again = again.String()
		}
		if status != nil {
			out.Used = map[string]string{}
			for name, q := range status.Used {
				out.Used[string(name)] = q.String()
			}
			out.Lowers = lowers(&in.Quota, status)
		}
		return out
	})
}

func TestALowerCountWaitsForItsCache(t *testing.T) {
	known := map[source]string{pods: "12", services: "9", claims: "9", "deployments.apps": "9"}
	for name, want := range map[corev1.ResourceName]bool{
		"pods": false, "requests.cpu": false, "count/pods": false, "requests.example.com/gpu": false,
		"services.nodeports": true, "requests.storage": true, "fast.storageclass.storage.k8s.io/requests.storage": true, "count/deployments.apps": true,
	} {
		if got := behind(known, []corev1.ResourceName{name}, "10"); got != want {
			t.Errorf("a lower count of %s waits: %v", name, got)
		}
	}
	if behind(known, nil, "10") || behind(known, []corev1.ResourceName{"services"}, "not a number") {
		t.Error("waits for nothing")
	}
}
