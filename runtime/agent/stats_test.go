package agent_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"kontiki/runtime/shim/shimtest"
)

func (l *lab) get(path string) (code int, body string) {
	l.t.Helper()
	rec := httptest.NewRecorder()
	l.agent.Handler().ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
	b, _ := io.ReadAll(rec.Body)
	return rec.Code, string(b)
}

func TestStatsAndMetrics(t *testing.T) {
	l := newLab(t)
	l.pod("busy", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "still", Image: "probe:1", Args: []string{"run"}})
	}, "tick")
	l.pod("done", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }, "exit", "0")
	l.wait("busy", "to be ready", ready)
	l.wait("done", "to succeed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	shimtest.Eventually(t, "it to have ticked", func() bool { return strings.Contains(l.logs("busy/c"), "tick 20") })

	code, body := l.get("/stats/summary")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	var s statsapi.Summary
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	if s.Node.NodeName != "n1" || *s.Node.CPU.UsageCoreNanoSeconds == 0 || *s.Node.Memory.WorkingSetBytes == 0 || *s.Node.Memory.AvailableBytes == 0 || *s.Node.Fs.CapacityBytes == 0 || *s.Node.Runtime.ImageFs.UsedBytes == 0 {
		t.Errorf("node: %+v", s.Node)
	}
	if len(s.Pods) != 1 || s.Pods[0].PodRef != (statsapi.PodReference{Name: "busy", Namespace: "default", UID: "uid-busy"}) {
		t.Fatalf("pods: %+v", s.Pods)
	}
	p := s.Pods[0]
	if len(p.Containers) != 2 || p.Containers[0].Name != "c" || p.Containers[1].Name != "still" {
		t.Fatalf("containers: %+v", p.Containers)
	}
	c := p.Containers[0]
	if *c.CPU.UsageCoreNanoSeconds == 0 || c.CPU.UsageNanoCores == nil || *c.CPU.UsageNanoCores == 0 || *c.Memory.WorkingSetBytes == 0 || *c.Logs.UsedBytes == 0 || c.Rootfs.UsedBytes == nil || c.StartTime.IsZero() {
		t.Errorf("container: %s", body)
	}
	if *p.CPU.UsageCoreNanoSeconds < *c.CPU.UsageCoreNanoSeconds || len(p.VolumeStats) != 1 || p.VolumeStats[0].Name != "scratch" || *p.EphemeralStorage.UsedBytes < *c.Logs.UsedBytes || *p.ProcessStats.ProcessCount < 2 {
		t.Errorf("pod: %s", body)
	}
	if code, body := l.get("/stats/summary?only_cpu_and_memory=true"); code != http.StatusOK || strings.Contains(body, "rootfs") || !strings.Contains(body, "usageNanoCores") {
		t.Errorf("%d %s", code, body)
	}

	for path, wanted := range map[string][]string{
		"/metrics/resource": {
			"# TYPE container_cpu_usage_seconds_total counter", `container_memory_working_set_bytes{container="still",namespace="default",pod="busy"} `,
			`pod_cpu_usage_seconds_total{namespace="default",pod="busy"} `, "node_memory_working_set_bytes ", `container_start_time_seconds{container="c",`, "resource_scrape_error 0\n",
		},
		"/metrics": {
			`kubelet_node_name{node="n1"} 1`, "kubelet_running_pods 1\n", `kubelet_running_containers{container_state="running"} 2`, `kubelet_started_containers_total{container_type="container"} 3`,
			"kubelet_pod_start_duration_seconds_count ", `kubelet_pod_worker_duration_seconds_count{operation_type="create"} 2`, `kubelet_pod_worker_duration_seconds_count{operation_type="sync"} `, "process_resident_memory_bytes ",
			`kubelet_runtime_operations_total{operation_type="create_container"} 3`, `kubelet_runtime_operations_duration_seconds_count{operation_type="start_container"} 3`,
			"kontiki_runtime_exits_total 1\n",
		},
		"/healthz": {"ok"},
	} {
		code, body := l.get(path)
		for _, w := range wanted {
			if code != http.StatusOK || !strings.Contains(body, w) {
				t.Errorf("%s: %d, no %q in\n%s", path, code, w, body)
			}
		}
	}
	l.delete("busy", 1)
	l.delete("done", 1)
	l.clean()
}
