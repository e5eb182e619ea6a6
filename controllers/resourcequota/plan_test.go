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
	Used   map[string]string `json:"used,omitempty"`
	Again  string            `json:"again,omitempty"`
	Lowers bool              `json:"lowers,omitempty"`
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

func TestALowerCountWaitsForTheCaches(t *testing.T) {
	for _, c := range []struct {
		known []string
		at    string
		want  bool
	}{
		{[]string{"10", "12"}, "10", true},
		{[]string{"10", "9"}, "10", false},
		{[]string{"9"}, "not a number", true},
	} {
		if got := reached(c.known, c.at); got != c.want {
			t.Errorf("%v reached %s: %v", c.known, c.at, got)
		}
	}
}
