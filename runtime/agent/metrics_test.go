package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kontiki/internal/meter/metertest"
)

// deafShim fails as often as it is told to.
type deafShim struct {
	Shim
	failures int
}

func (s *deafShim) Signal(context.Context, string, unix.Signal) error {
	if s.failures--; s.failures >= 0 {
		return errors.New("no")
	}
	return nil
}

func (s *deafShim) Delete(context.Context, string) error { return nil }

// TestAStopIsCountedOnce: the SIGKILL at the end of the grace belongs to it. One that failed is
// tried again, and another container of the same id is another.
func TestAStopIsCountedOnce(t *testing.T) {
	m := newMetrics(&Agent{})
	shim := countingShim(&deafShim{failures: 1}, m)
	ask := func(signals ...unix.Signal) {
		for _, s := range signals {
			_ = shim.Signal(t.Context(), "c", s)
		}
	}
	ask(unix.SIGTERM, unix.SIGTERM, unix.SIGKILL)
	if err := shim.Delete(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	ask(unix.SIGKILL)
	got := metertest.Read(t, &Families, m)
	if n, failed := got[`kubelet_runtime_operations_total{operation_type="stop_container"}`], got[`kubelet_runtime_operations_errors_total{operation_type="stop_container"}`]; n != 3 || failed != 1 {
		t.Errorf("%v stops, %v of them failed; want 3 and 1", n, failed)
	}
}

func TestPullsAreCounted(t *testing.T) {
	a := &Agent{cfg: Config{NodeName: "n1"}}
	m := newMetrics(a)
	m.ImagePulled(5<<20, 2*time.Second, nil)
	m.ImagePulled(500<<20+1, time.Second, nil)
	m.ImagePulled(600<<20, time.Second, nil)
	m.ImagePulled(1<<50, time.Second, nil)
	m.ImagePulled(0, time.Second, errors.New("refused"))
	m.ImagePulled(0, time.Second, nil)
	_ = m.counted("exec", func() error { return errors.New("no") })
	got := metertest.Read(t, &Families, m)
	const pulls = "kubelet_image_pull_duration_seconds{image_size_in_bytes="
	for name, want := range map[string]float64{
		pulls + `"0-10MB"}`: 1, pulls + `"500MB-1GB"}`: 2, pulls + `"GT100GB"}`: 1, pulls + `"N/A"}`: 1, "kontiki_image_pull_failures_total": 1,
		`kubelet_runtime_operations_total{operation_type="exec"}`: 1, `kubelet_runtime_operations_errors_total{operation_type="exec"}`: 1,
		`kubelet_node_name{node="n1"}`: 1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}
