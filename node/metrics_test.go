package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/component-base/metrics/legacyregistry"

	"kontiki/apiserver/census"
	"kontiki/controllers"
	"kontiki/controllers/scheduler"
	"kontiki/gossip"
	"kontiki/internal/meter"
	"kontiki/overlay"
	"kontiki/raftstore"
	"kontiki/runtime/agent"
)

//go:generate env KONTIKI_GENERATE=1 go test -tags seccomp -count=1 -run ^TestMetricsDocument$ .

// TestMetricsDocument wants docs/METRICS.md to say what a node tells, and writes it for go
// generate.
func TestMetricsDocument(t *testing.T) {
	var out strings.Builder
	out.WriteString(metricsIntroduction)
	seen := map[string]bool{}
	for _, room := range []struct {
		title, at string
		set       *meter.Set
	}{
		{"The store and Raft", "", &raftstore.Metrics},
		{"Objects", "", &census.Metrics},
		{"The ring", "", &gossip.Metrics},
		{"Raft and memberlist, the libraries", "What they tell of themselves beside what the store and the ring tell above.", &libraries},
		{"Controllers", "", &controllers.Metrics},
		{"The scheduler", "", &scheduler.Families},
		{"The pod network, Services and DNS", "", &overlay.Metrics},
		{"The agent", "They are at `/api/v1/nodes/NAME/proxy/metrics`.", &agent.Families},
		{"What pods use", "It is at `/api/v1/nodes/NAME/proxy/metrics/resource`.", &agent.Resources},
	} {
		fmt.Fprintf(&out, "\n## %s\n\n", room.title)
		if room.at != "" {
			out.WriteString(room.at + "\n\n")
		}
		out.WriteString("| Name | Kind | Labels | What it tells |\n|---|---|---|---|\n")
		for _, f := range room.set.Families() {
			if seen[f.Name] {
				t.Errorf("%s is declared twice", f.Name)
			}
			seen[f.Name] = true
			if (f.Kind == meter.KindCounter) != strings.HasSuffix(f.Name, "_total") {
				t.Errorf("%s is a %s: counters, and no others, end in _total", f.Name, f.Kind)
			}
			fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", f.Name, f.Kind, strings.Join(f.Labels, ", "), f.Help)
		}
	}
	path := filepath.Join("..", "docs", "METRICS.md")
	if os.Getenv("KONTIKI_GENERATE") != "" {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(path)
	if err != nil || string(written) != out.String() {
		t.Errorf("docs/METRICS.md is stale: run go generate ./node (%v)", err)
	}
}

// TestFamiliesOfRoomsAndLibraries: no room tells a family that a library tells, too: the
// process would end at its start.
func TestFamiliesOfRoomsAndLibraries(t *testing.T) {
	routes.DefaultMetrics{}.Install(mux.NewPathRecorderMux("test"))
	for _, set := range []*meter.Set{&raftstore.Metrics, &census.Metrics, &gossip.Metrics, &libraries, &controllers.Metrics, &scheduler.Families, &overlay.Metrics} {
		if err := legacyregistry.Registerer().Register(described{set}); err != nil {
			t.Errorf("%v: %v", set.Families(), err)
		}
	}
}

type described struct{ *meter.Set }

func (described) Collect(chan<- prometheus.Metric) {}

const metricsIntroduction = `# Metrics

What a node tells Prometheus, made from the code by ` + "`go generate ./node`" + `. Names are upstream's where
Kubernetes has one; those of Kontiki's own begin with ` + "`kontiki_`" + `, and those of the libraries that keep
the state and the ring with ` + "`raft_` and `memberlist_`" + `. Every node tells them at ` + "`/metrics`" + ` of the cluster port
(6443), for whoever may ` + "`get`" + ` the path ` + "`/metrics`" + ` (the ClusterRole ` + "`system:monitoring`" + ` may):

    kontiki kubectl get --raw /metrics
    kontiki kubectl get --raw /api/v1/nodes/n1/proxy/metrics    # of the agent

A node tells of itself alone: scrape all of them. Nothing is measured by the clock: numbers are
read from what a node knows anyway when somebody asks, and durations are noted as things happen, so
that an idle node does nothing for them. Labels have few values: none is a pod's or a client's
name, but for those of what pods use.

The libraries that the API is built on tell their own, as in Kubernetes:
` + "`apiserver_*`" + ` (requests, their durations and sizes, watches, admission, flow control, audit, certificates),
` + "`authentication_*`, `authorization_*`, `aggregator_*`, `apiextensions_*`, `workqueue_*`" + ` (queues of the controllers, on
the leader), ` + "`rest_client_*`" + ` (requests of a node's own components), ` + "`go_*` and `process_*`" + `. Upstream's
[reference](https://kubernetes.io/docs/reference/instrumentation/metrics/) describes them.

To begin with, watch these:

- ` + "`kontiki_raft_has_leader == 0`" + ` for more than some seconds: nothing can be written.
- ` + "`kontiki_ring_members{state=\"dead\"} > 0`" + `: a node is away.
- ` + "`kontiki_store_replica_damaged`, `kontiki_store_replicas_unclear`, `kontiki_store_disk_failing`" + `: see [RECOVERY.md](RECOVERY.md).
- ` + "`rate(kontiki_raft_leader_changes_seen_total[1h])`" + `: leaders that change by themselves mean a slow disk or network;
  ` + "`kontiki_store_disk_write_duration_seconds`" + ` tells which.
- ` + "`kontiki_raft_peer_lag_entries`" + ` that grows: a member does not keep up.
- ` + "`scheduler_pending_pods{queue=\"unschedulable\"}`" + `: pods find no node.
- ` + "`rate(kontiki_controller_restarts_total[10m]) > 0`" + `: a controller fails; the node's log says why.
- ` + "`kontiki_overlay_comparison_failures_total`" + ` that grows: the pod network is not as it should be (` + "`kontiki net status`" + `).
`
