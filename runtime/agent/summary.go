package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"kontiki/runtime/pod"
	"kontiki/runtime/shim"
)

// serveSummary answers /stats/summary as a kubelet does. CPU rates are over the
// time since somebody asked before, see meter.
func (a *Agent) serveSummary(w http.ResponseWriter, r *http.Request) {
	onlyBasics := false
	if v := r.FormValue("only_cpu_and_memory"); v != "" {
		var err error
		if onlyBasics, err = strconv.ParseBool(v); err != nil {
			http.Error(w, "parse param failed: "+err.Error(), http.StatusBadRequest)
			return
		}
	}
	s, err := a.summary(r.Context(), true, !onlyBasics)
	if err != nil {
		http.Error(w, "Internal Error: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s)
}

// summary measures node and pods. With rates it may take a second; storage walks folders.
func (a *Agent) summary(ctx context.Context, rates, storage bool) (*statsapi.Summary, error) {
	m, err := a.meter.measure(ctx, rates)
	if err != nil {
		return nil, err
	}
	s := &statsapi.Summary{Node: a.nodeStats(ctx, m, storage), Pods: []statsapi.PodStats{}}
	byPod := map[string][]shim.Container{}
	for _, c := range m.containers {
		if _, runs := m.usage.Containers[c.ID]; runs {
			byPod[c.SandboxID] = append(byPod[c.SandboxID], c)
		}
	}
	for _, p := range a.snapshots() {
		if list := byPod[string(p.UID)]; len(list) > 0 {
			s.Pods = append(s.Pods, a.podStats(ctx, m, p, list, storage))
		}
	}
	return s, ctx.Err()
}

func (a *Agent) nodeStats(ctx context.Context, m measurement, storage bool) statsapi.NodeStats {
	boot := metav1.NewTime(a.host.Boot)
	machine := m.usage.Machine
	machine.MemoryLimit = uint64(a.host.MemoryBytes)
	n := statsapi.NodeStats{
		NodeName: a.cfg.NodeName, StartTime: boot,
		CPU: m.cpu(keyMachine, machine), Memory: memoryStats(machine), Swap: swapStats(machine), IO: ioStats(machine),
		SystemContainers: []statsapi.ContainerStats{
			a.ownStats(m.at),
			{Name: statsapi.SystemContainerRuntime, StartTime: boot, CPU: m.cpu(keyShim, m.usage.Shim), Memory: memoryStats(m.usage.Shim), Swap: swapStats(m.usage.Shim)},
			{Name: statsapi.SystemContainerPods, StartTime: boot, CPU: m.cpu(keyPods, m.usage.Pods), Memory: memoryStats(m.usage.Pods), Swap: swapStats(m.usage.Pods)},
		},
	}
	if !storage {
		return n
	}
	images := a.disks.count(ctx, filepath.Join(a.cfg.DataDir, "images"), m.at)
	n.Fs = fileSystem(a.cfg.DataDir, m.at, nil)
	n.Runtime = &statsapi.RuntimeStats{ImageFs: fileSystem(a.cfg.DataDir, m.at, &images)}
	if devices, err := netDevices(os.Getpid()); err == nil {
		n.Network = networkStats(devices, m.at)
	}
	n.Rlimit = rlimitStats(m.at)
	return n
}

// ownStats is what this process uses; it has no cgroup that is surely its own.
func (a *Agent) ownStats(at time.Time) statsapi.ContainerStats {
	c := statsapi.ContainerStats{Name: statsapi.SystemContainerKubelet, StartTime: metav1.NewTime(a.began)}
	var ru syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &ru) == nil {
		nanos := uint64(ru.Utime.Nano() + ru.Stime.Nano())
		c.CPU = &statsapi.CPUStats{Time: metav1.NewTime(at), UsageCoreNanoSeconds: &nanos}
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			if pages, err := strconv.ParseUint(f[1], 10, 64); err == nil {
				rss := pages * uint64(os.Getpagesize())
				c.Memory = &statsapi.MemoryStats{Time: metav1.NewTime(at), UsageBytes: &rss, WorkingSetBytes: &rss, RSSBytes: &rss}
			}
		}
	}
	return c
}

func (a *Agent) podStats(ctx context.Context, m measurement, p *corev1.Pod, containers []shim.Container, storage bool) statsapi.PodStats {
	uid := string(p.UID)
	s := statsapi.PodStats{PodRef: statsapi.PodReference{Name: p.Name, Namespace: p.Namespace, UID: uid}, Containers: []statsapi.ContainerStats{}}
	if p.Status.StartTime != nil {
		s.StartTime = *p.Status.StartTime
	}
	if own, ok := m.usage.Sandboxes[uid]; ok {
		s.CPU, s.Memory, s.Swap, s.IO = m.cpu(sandboxKey(uid), own), memoryStats(own), swapStats(own), ioStats(own)
		s.ProcessStats = &statsapi.ProcessStats{ProcessCount: &own.Pids}
	}
	for _, c := range containers {
		name, own := c.Labels[pod.LabelContainer], m.usage.Containers[c.ID]
		if name == "" {
			continue // not one of the pod's specification
		}
		s.Containers = append(s.Containers, statsapi.ContainerStats{
			Name: name, StartTime: metav1.NewTime(c.Started), CPU: m.cpu(containerKey(c.ID), own), Memory: memoryStats(own), Swap: swapStats(own), IO: ioStats(own),
		})
	}
	slices.SortFunc(s.Containers, func(x, y statsapi.ContainerStats) int { return strings.Compare(x.Name, y.Name) })
	if !storage {
		s.ProcessStats = nil
		return s
	}
	if !p.Spec.HostNetwork {
		if devices, err := netDevices(containers[0].PID); err == nil {
			s.Network = networkStats(devices, m.at)
		}
	}
	a.podStorage(ctx, &s, p, containers, m.at)
	return s
}

// podStorage counts what a pod has on the node's disk.
func (a *Agent) podStorage(ctx context.Context, s *statsapi.PodStats, p *corev1.Pod, containers []shim.Container, at time.Time) {
	dir := filepath.Join(a.podsDir, s.PodRef.UID)
	var total diskCount
	add := func(c diskCount) { total.bytes, total.inodes = total.bytes+c.bytes, total.inodes+c.inodes }
	for i := range s.Containers {
		c := &s.Containers[i]
		written := diskCount{}
		for _, k := range containers {
			if k.Labels[pod.LabelContainer] == c.Name {
				written = a.disks.count(ctx, pod.WrittenDir(a.podsDir, k), at)
			}
		}
		logs := logCount(filepath.Join(dir, c.Name))
		c.Rootfs, c.Logs = fileSystem(dir, at, &written), fileSystem(dir, at, &logs)
		add(written)
		add(logs)
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.EmptyDir == nil && v.ConfigMap == nil && v.Secret == nil && v.DownwardAPI == nil && v.Projected == nil {
			continue // what lies elsewhere is not the pod's own
		}
		where := filepath.Join(dir, "volumes.d", v.Name)
		used := a.disks.count(ctx, where, at)
		if f := fileSystem(where, at, &used); f != nil {
			s.VolumeStats = append(s.VolumeStats, statsapi.VolumeStats{Name: v.Name, FsStats: *f})
		}
		if v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault {
			add(used)
		}
	}
	s.EphemeralStorage = fileSystem(dir, at, &total)
}

func (m measurement) cpu(key string, st shim.Stats) *statsapi.CPUStats {
	c := &statsapi.CPUStats{Time: metav1.NewTime(m.at), UsageCoreNanoSeconds: &st.CPUNanos}
	if rate, ok := m.rates[key]; ok {
		c.UsageNanoCores = &rate
	}
	if p := st.Pressure; p != nil {
		c.PSI = psi(p.CPU)
	}
	return c
}

func memoryStats(st shim.Stats) *statsapi.MemoryStats {
	m := &statsapi.MemoryStats{
		Time: metav1.NewTime(st.At), UsageBytes: &st.MemoryUsage, WorkingSetBytes: &st.MemoryWorkingSet, RSSBytes: &st.MemoryRSS,
		PageFaults: &st.PageFaults, MajorPageFaults: &st.MajorPageFaults,
	}
	if st.MemoryLimit != 0 {
		available := st.MemoryLimit - min(st.MemoryLimit, st.MemoryWorkingSet)
		m.AvailableBytes = &available
	}
	if p := st.Pressure; p != nil {
		m.PSI = psi(p.Memory)
	}
	return m
}

func swapStats(st shim.Stats) *statsapi.SwapStats {
	if st.Swap == nil {
		return nil
	}
	s := &statsapi.SwapStats{Time: metav1.NewTime(st.At), SwapUsageBytes: &st.Swap.Bytes}
	if limit := st.Swap.Limit; limit != 0 {
		available := limit - min(limit, st.Swap.Bytes)
		s.SwapAvailableBytes = &available
	}
	return s
}

func ioStats(st shim.Stats) *statsapi.IOStats {
	if st.Pressure == nil {
		return nil
	}
	return &statsapi.IOStats{Time: metav1.NewTime(st.At), PSI: psi(st.Pressure.IO)}
}

func psi(s shim.Stall) *statsapi.PSIStats {
	data := func(t shim.StallTime) statsapi.PSIData {
		return statsapi.PSIData{Total: 1000 * t.Total, Avg10: t.Avg10, Avg60: t.Avg60, Avg300: t.Avg300}
	}
	return &statsapi.PSIStats{Full: data(s.Full), Some: data(s.Some)}
}

func networkStats(devices []statsapi.InterfaceStats, at time.Time) *statsapi.NetworkStats {
	n := &statsapi.NetworkStats{Time: metav1.NewTime(at), Interfaces: devices}
	for _, d := range devices {
		if d.Name == defaultInterface {
			n.InterfaceStats = d
		}
	}
	return n
}

func rlimitStats(at time.Time) *statsapi.RlimitStats {
	most, err := strconv.ParseInt(firstLine("/proc/sys/kernel/pid_max"), 10, 64)
	if err != nil {
		return nil
	}
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) != nil {
		return nil
	}
	running := int64(info.Procs)
	return &statsapi.RlimitStats{Time: metav1.NewTime(at), MaxPID: &most, NumOfRunningProcesses: &running}
}
