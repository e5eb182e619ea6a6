package overlay

import (
	"fmt"
	"testing"
	"time"

	"kontiki/internal/meter/metertest"
	"kontiki/overlay/datapath"
)

func TestMetrics(t *testing.T) {
	l := newLab(t, 2)
	node := l.nodes[0]
	a, b := node.pod(), l.nodes[1].pod()
	echoTCP(t, b.ns, b.uid, 80)
	l.expose("web", "10.43.0.20", 30080, b)
	eventually(t, "the Service is reached", func() error {
		_, _, err := askTCP(a.ns, "10.43.0.20:80")
		return err
	})
	l.expose("again", "10.43.0.21", 30081, b) // when all others are programmed
	eventually(t, "another Service is reached", func() error {
		_, _, err := askTCP(a.ns, "10.43.0.21:80")
		return err
	})
	got := metertest.Read(t, &Metrics, node.net)
	for name, want := range map[string]float64{
		"kontiki_overlay_pods": 1, "kontiki_overlay_leases": 2, "kontiki_overlay_routes": 2, "kontiki_overlay_service_repairs_total": 0,
		"kontiki_overlay_comparison_failures_total": 0, "kubeproxy_sync_full_proxy_rules_duration_seconds": 1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	for _, name := range []string{"kontiki_overlay_mtu_bytes", "kontiki_overlay_service_frontends", "kontiki_overlay_comparisons_total", "kontiki_overlay_changes_total",
		"kubeproxy_sync_partial_proxy_rules_duration_seconds"} {
		if got[name] <= 0 {
			t.Errorf("%s is %v", name, got[name])
		}
	}
	c, err := dialIn(a.ns, "udp4", at(labDNS, 53), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "DNS answers", func() error { return ask(c, question(t, 7)) })
	eventually(t, "an answer of DNS is counted, and how long it took", func() error {
		after := metertest.Read(t, &Metrics, node.net)
		if after["kontiki_dns_request_duration_seconds"] < 1 || after["kontiki_dns_questions_total"] < 1 {
			return fmt.Errorf("%v took, of %v", after["kontiki_dns_request_duration_seconds"], after["kontiki_dns_questions_total"])
		}
		return nil
	})
	h := handle(t, node.ns)
	tunnel, err := h.LinkByName(datapath.TunnelName)
	if err == nil {
		err = h.LinkDel(tunnel)
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the tunnel is back", func() error { _, err := h.LinkByName(datapath.TunnelName); return err })
	if err := node.net.Reconcile(); err != nil {
		t.Fatal(err)
	}
	if after := metertest.Read(t, &Metrics, node.net); after["kontiki_overlay_changes_total"] <= got["kontiki_overlay_changes_total"] {
		t.Errorf("a tunnel was made anew, and changes stand at %v as before", got["kontiki_overlay_changes_total"])
	}
}
