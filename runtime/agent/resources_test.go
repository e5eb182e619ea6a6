package agent_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// groupOf is the folder of a process's cgroup for a controller.
func groupOf(t *testing.T, pid int, controller string) string {
	t.Helper()
	groups, err := cgroups.ParseCgroupFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if cgroups.IsCgroup2UnifiedMode() {
		return filepath.Join("/sys/fs/cgroup", groups[""])
	}
	return filepath.Join("/sys/fs/cgroup", controller, groups[controller])
}

// TestWhereAPodIsCounted: a pod's class says where its cgroup is; what it may have is there and, for each container,
// below it, in upstream's numbers.
func TestWhereAPodIsCounted(t *testing.T) {
	l := newLab(t)
	list := func(cpu, memory string) corev1.ResourceList {
		out := corev1.ResourceList{}
		for name, q := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
			if q != "" {
				out[name] = resource.MustParse(q)
			}
		}
		return out
	}
	const none = "max"
	type limits struct{ memory, quota, shares string }
	cases := []struct {
		name            string
		class           corev1.PodQOSClass
		resources       corev1.ResourceRequirements
		below           string // kubepods
		container, pods limits
	}{
		{"guaranteed", corev1.PodQOSGuaranteed, corev1.ResourceRequirements{Limits: list("100m", "64Mi"), Requests: list("100m", "64Mi")},
			"", limits{"67108864", "10000", "102"}, limits{"67108864", "10000", "102"}},
		{"burstable", corev1.PodQOSBurstable, corev1.ResourceRequirements{Limits: list("", "128Mi"), Requests: list("250m", "")},
			"burstable", limits{"134217728", none, "256"}, limits{"134217728", none, "256"}},
		{"besteffort", corev1.PodQOSBestEffort, corev1.ResourceRequirements{}, "besteffort", limits{none, none, "2"}, limits{none, none, "2"}},
	}
	for _, c := range cases {
		l.pod(c.name, func(p *corev1.Pod) { p.Spec.Containers[0].Resources = c.resources }, "run")
	}
	for _, c := range cases {
		p := l.wait(c.name, "to be ready", ready)
		if p.Status.QOSClass != c.class {
			t.Errorf("%s: its class is %s", c.name, p.Status.QOSClass)
		}
		made, err := l.env.Client.State(l.env.Context(), "uid-"+c.name+".c.0")
		if err != nil {
			t.Fatal(err)
		}
		for controller, files := range map[string]map[string]func(limits) string{
			"memory": {"memory.limit_in_bytes": func(l limits) string { return l.memory }},
			"cpu":    {"cpu.cfs_quota_us": func(l limits) string { return l.quota }, "cpu.shares": func(l limits) string { return l.shares }},
		} {
			own := groupOf(t, made.PID, controller)
			if want := filepath.Join(l.env.Config.CgroupRoot, "kubepods", c.below, "poduid-"+c.name, "uid-"+c.name+".c.0"); !strings.HasSuffix(own, want) {
				t.Errorf("%s: its container is counted in %s, not in %s", c.name, own, want)
			}
			if cgroups.IsCgroup2UnifiedMode() {
				continue // files of other names hold them, and shim's tests look into those
			}
			for file, of := range files {
				for dir, want := range map[string]string{own: of(c.container), filepath.Dir(own): of(c.pods)} {
					b, err := os.ReadFile(filepath.Join(dir, file))
					got := strings.TrimSpace(string(b))
					if n, nerr := strconv.ParseInt(got, 10, 64); nerr == nil && (n < 0 || n > 1<<60) {
						got = none
					}
					if err != nil || got != want {
						t.Errorf("%s: %s/%s: %s, want %s (%v)", c.name, dir, file, got, want, err)
					}
				}
			}
		}
	}
	for _, c := range cases {
		l.delete(c.name, 1)
	}
	l.clean()
}
