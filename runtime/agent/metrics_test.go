package agent

import (
	"errors"
	"testing"
	"time"

	"kontiki/internal/meter/metertest"
)

func TestPullsAreCounted(t *testing.T) {
	a := &Agent{cfg: Config{NodeName: "n1"}}
	m := newMetrics(a)
	m.ImagePulled(5<<20, 2*time.Second, nil)
	m.ImagePulled(500<<20+1, time.Second, nil)
	m.ImagePulled(600<<20, time.Second, nil)
	m.ImagePulled(1<<50, time.Second, nil)
	m.ImagePulled(0, time.Second, errors.New("refused"))
	_ = m.counted("exec", func() error { return errors.New("no") })
	got := metertest.Read(t, &Families, m)
	const pulls = "kubelet_image_pull_duration_seconds{image_size_in_bytes="
	for name, want := range map[string]float64{
		pulls + `"0-10MB"}`: 1, pulls + `"500MB-1GB"}`: 2, pulls + `"GT100GB"}`: 1, "kontiki_image_pull_failures_total": 1,
		`kubelet_runtime_operations_total{operation_type="exec"}`: 1, `kubelet_runtime_operations_errors_total{operation_type="exec"}`: 1,
		`kubelet_node_name{node="n1"}`: 1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}
