package gossip_test

import (
	"testing"
	"testing/synctest"
	"time"

	"kontiki/gossip"
	"kontiki/internal/meter/metertest"
)

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		for i := 1; i <= 3; i++ {
			l.add(i).start(joining("10.0.0.1"))
		}
		defer l.stopAll()
		l.allSee(2 * time.Second)
		l.nodes["n3"].crash()
		eventually(t, 10*time.Second, "n1 holds n3 for dead", func() bool { return l.nodes["n1"].member("n3").State == gossip.StateDead })
		l.nodes["n2"].stop()
		eventually(t, 2*time.Second, "n1 sees that n2 left", func() bool { return l.nodes["n1"].member("n2").State == gossip.StateLeft })
		got := metertest.Read(t, &gossip.Metrics, l.nodes["n1"].ring)
		for name, want := range map[string]float64{
			`kontiki_ring_members{state="alive"}`: 1, `kontiki_ring_members{state="dead"}`: 1, `kontiki_ring_members{state="left"}`: 1, `kontiki_ring_members{state="unknown"}`: 0,
			"kontiki_ring_joins_total": 2, `kontiki_ring_losses_total{state="dead"}`: 1, `kontiki_ring_losses_total{state="left"}`: 1,
			"kontiki_ring_lives_total": 1, `kontiki_ring_refusals_total{reason="secret"}`: 0, "kontiki_ring_leases": 0,
		} {
			if got[name] != want {
				t.Errorf("%s is %v, want %v", name, got[name], want)
			}
		}
		for _, name := range []string{`kontiki_ring_packets_total{direction="sent"}`, `kontiki_ring_packets_total{direction="received"}`,
			`kontiki_ring_packet_bytes_total{direction="sent"}`, `kontiki_ring_packet_bytes_total{direction="received"}`, "kontiki_ring_probe_duration_seconds"} {
			if got[name] <= 0 {
				t.Errorf("%s is %v", name, got[name])
			}
		}
		if _, told := got["kontiki_ring_health_score"]; !told {
			t.Error("nothing is told of the node's own health")
		}
		// Whoever probes n3 first suspects it; the other is told.
		if n2 := metertest.Read(t, &gossip.Metrics, l.nodes["n2"].ring); got["kontiki_ring_suspicions_total"]+n2["kontiki_ring_suspicions_total"] < 1 {
			t.Error("nobody suspected the node that crashed")
		}
	})
}
