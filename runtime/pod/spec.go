package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	sysctls "k8s.io/component-helpers/node/util/sysctl"

	"kontiki/runtime/image"
	"kontiki/runtime/shim"
)

// RuntimeHandler is the handler of a RuntimeClass that this node has; the empty one is the same.
const RuntimeHandler = "runc"

// sandboxSpec translates what a pod's containers share.
func (w *Worker) sandboxSpec(ctx context.Context) (shim.SandboxSpec, error) {
	pod := w.rec.Pod
	if err := UserNamespaces(pod); err != nil { // of a record from before such pods were refused
		return shim.SandboxSpec{}, err
	}
	if class := pod.Spec.RuntimeClassName; class != nil && *class != "" {
		handler, err := w.deps.Objects.RuntimeHandler(ctx, *class)
		if err != nil {
			return shim.SandboxSpec{}, err
		}
		if handler != "" && handler != RuntimeHandler {
			return shim.SandboxSpec{}, fmt.Errorf("failed to get sandbox runtime: no runtime for %q is configured", handler)
		}
	}
	host, err := kernelHostname(pod, w.deps.DNS.Domain)
	if err != nil {
		return shim.SandboxSpec{}, err
	}
	spec := shim.SandboxSpec{
		ID: string(pod.UID), PodUID: string(pod.UID), QOS: shim.QOSClass(qosClass(&pod.Spec)), Hostname: host,
		HostNetwork: pod.Spec.HostNetwork, HostIPC: pod.Spec.HostIPC, SharePID: pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace && !pod.Spec.HostPID,
		Resources: podResources(&pod.Spec), Labels: map[string]string{LabelUID: string(pod.UID)},
	}
	if sc := pod.Spec.SecurityContext; sc != nil && len(sc.Sysctls) > 0 {
		spec.Sysctls = map[string]string{}
		for _, s := range sc.Sysctls {
			spec.Sysctls[SysctlName(s.Name)] = s.Value
		}
	}
	return spec, nil
}

// SysctlName is a sysctl's name with dots, however it was written (sysctl.d(5)).
func SysctlName(name string) string { return sysctls.NormalizeName(name) }

// joined is the container whose processes an ephemeral container is to see, by its id.
func (w *Worker) joined(name string) (string, error) {
	for i := range w.rec.Pod.Spec.EphemeralContainers {
		c := &w.rec.Pod.Spec.EphemeralContainers[i]
		if c.Name != name || c.TargetContainerName == "" {
			continue
		}
		target := w.rec.Containers[c.TargetContainerName]
		if target == nil || target.State != Running {
			return "", fmt.Errorf("unable to find target container %s", c.TargetContainerName)
		}
		return target.ID, nil
	}
	return "", nil
}

// containerSpec translates a container into what the shim runs. The same attempt
// always gives the same specification, so that creating it can be repeated.
func (w *Worker) containerSpec(s *sources, c *corev1.Container, img image.Image, id, rootfs string) (shim.ContainerSpec, error) {
	pod := w.rec.Pod
	user, err := resolveUser(pod, c, img.Config.Config.User, rootfs)
	if err != nil {
		return shim.ContainerSpec{}, err
	}
	vars, err := s.environment(c)
	if err != nil {
		return shim.ContainerSpec{}, err
	}
	mounts, err := w.mounts(c, vars)
	if err != nil {
		return shim.ContainerSpec{}, err
	}
	host, err := kernelHostname(pod, w.deps.DNS.Domain)
	if err != nil {
		return shim.ContainerSpec{}, err
	}
	args, err := command(c, img, vars)
	if err != nil {
		return shim.ContainerSpec{}, err
	}
	spec := shim.ContainerSpec{
		ID: id, SandboxID: string(pod.UID), Args: args, Env: environ(img, vars, host), Cwd: c.WorkingDir, User: user,
		Rootfs: rootfs, Mounts: mounts,
		Resources: containerResources(c), OOMScoreAdj: oomScore(pod, c, s.allocatable.Memory().Value()),
		HostPID: pod.Spec.HostPID, Tty: c.TTY, Stdin: c.Stdin,
		Labels: map[string]string{LabelUID: string(pod.UID), LabelContainer: c.Name},
	}
	if spec.JoinPID, err = w.joined(c.Name); err != nil {
		return shim.ContainerSpec{}, err
	}
	if spec.Cwd == "" {
		spec.Cwd = img.Config.Config.WorkingDir
	}
	if err := secure(&spec, pod, c.SecurityContext, w.deps.SeccompDir); err != nil {
		return shim.ContainerSpec{}, err
	}
	return spec, nil
}

// Labels of containers and sandboxes in the shim.
const (
	LabelUID       = "kontiki.io/pod-uid"
	LabelContainer = "kontiki.io/container"
)

func command(c *corev1.Container, img image.Image, vars map[string]string) ([]string, error) {
	var args []string
	for _, a := range c.Command {
		args = append(args, expand(a, vars))
	}
	tail := make([]string, 0, len(c.Args))
	for _, a := range c.Args {
		tail = append(tail, expand(a, vars))
	}
	if len(c.Command) == 0 {
		args = append(args, img.Config.Config.Entrypoint...)
		if len(c.Args) == 0 {
			tail = img.Config.Config.Cmd
		}
	}
	if args = append(args, tail...); len(args) == 0 {
		return nil, errors.New("no command specified")
	}
	return args, nil
}

// environ is the image's variables overridden by the pod's, in a fixed order.
func environ(img image.Image, vars map[string]string, host string) []string {
	all := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME": host}
	for _, e := range img.Config.Config.Env {
		k, v, _ := strings.Cut(e, "=")
		all[k] = v
	}
	for k, v := range vars {
		all[k] = v
	}
	list := make([]string, 0, len(all))
	for k, v := range all {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return list
}

// mounts binds the pod's volumes and files.
func (w *Worker) mounts(c *corev1.Container, vars map[string]string) ([]shim.Mount, error) {
	var list []shim.Mount
	taken := map[string]bool{}
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		source, v, err := w.mountSource(c, i, vars)
		if err != nil {
			return nil, err
		}
		mount := shim.Mount{Type: shim.MountBind, Source: source, Destination: filepath.Clean("/" + m.MountPath), ReadOnly: m.ReadOnly || readOnly(v)}
		if m.MountPropagation != nil {
			mount.Propagation = shim.Propagation(*m.MountPropagation)
		}
		mount.RecursiveReadOnly = mount.ReadOnly && m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled
		taken[mount.Destination] = true
		list = append(list, mount)
	}
	log := filepath.Join(w.containerDir(c.Name), fmt.Sprintf("termination-log.%d", w.rec.Containers[c.Name].Attempt))
	f, err := os.OpenFile(log, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chmod(0o666), f.Close()); err != nil { // any user of the image writes it
		return nil, err
	}
	path := c.TerminationMessagePath
	if path == "" {
		path = corev1.TerminationMessagePathDefault
	}
	for _, m := range []shim.Mount{
		{Source: filepath.Join(w.dir, "etc.hosts"), Destination: "/etc/hosts"},
		{Source: filepath.Join(w.dir, "resolv.conf"), Destination: "/etc/resolv.conf"},
		{Source: filepath.Join(w.dir, "etc.hostname"), Destination: "/etc/hostname"},
		{Source: log, Destination: path},
	} {
		if m.Type = shim.MountBind; !taken[m.Destination] {
			list = append(list, m)
		}
	}
	return list, nil
}

// readOnly volumes are so for all of their mounts: what is made of API objects, and
// claims that the pod takes for reading.
func readOnly(v *corev1.Volume) bool {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ReadOnly
	case v.ConfigMap != nil, v.Secret != nil, v.DownwardAPI != nil, v.Projected != nil:
		return true
	}
	return false
}

// containerResources is upstream's translation of requests and limits.
func containerResources(c *corev1.Container) shim.Resources {
	cpuLimit := c.Resources.Limits.Cpu()
	request := c.Resources.Requests.Cpu().MilliValue()
	if request == 0 && !cpuLimit.IsZero() {
		request = cpuLimit.MilliValue()
	}
	r := shim.Resources{CPUShares: shares(request), MemoryBytes: c.Resources.Limits.Memory().Value()}
	if !cpuLimit.IsZero() {
		r.CPUPeriod, r.CPUQuota = 100_000, max(cpuLimit.MilliValue()*100, 1000)
	}
	return r
}

func shares(milli int64) uint64 { return uint64(min(max(milli*1024/1000, 2), 262144)) }

// podResources limits the pod's cgroup as far as all its containers are limited.
func podResources(spec *corev1.PodSpec) shim.Resources {
	var total shim.Resources
	var cpu, quota, memory int64
	limitedCPU, limitedMemory := true, true
	for i := range spec.Containers {
		r := &spec.Containers[i].Resources
		m := r.Requests.Cpu().MilliValue()
		if m == 0 {
			m = r.Limits.Cpu().MilliValue()
		}
		cpu, quota, memory = cpu+m, quota+r.Limits.Cpu().MilliValue(), memory+r.Limits.Memory().Value()
		limitedCPU = limitedCPU && !r.Limits.Cpu().IsZero()
		limitedMemory = limitedMemory && !r.Limits.Memory().IsZero()
	}
	for i := range spec.InitContainers { // they run before: the larger counts, not the sum
		l := spec.InitContainers[i].Resources.Limits
		if isSidecar(&spec.InitContainers[i]) {
			quota, memory = quota+l.Cpu().MilliValue(), memory+l.Memory().Value()
		} else {
			quota, memory = max(quota, l.Cpu().MilliValue()), max(memory, l.Memory().Value())
		}
		limitedCPU = limitedCPU && !l.Cpu().IsZero()
		limitedMemory = limitedMemory && !l.Memory().IsZero()
	}
	cpu, quota, memory = cpu+spec.Overhead.Cpu().MilliValue(), quota+spec.Overhead.Cpu().MilliValue(), memory+spec.Overhead.Memory().Value()
	total.CPUShares = shares(cpu)
	if limitedCPU && quota > 0 {
		total.CPUPeriod, total.CPUQuota = 100_000, max(quota*100, 1000)
	}
	if limitedMemory && memory > 0 {
		total.MemoryBytes = memory
	}
	return total
}

// oomScore is upstream's: who asked for much memory is killed last.
func oomScore(pod *corev1.Pod, c *corev1.Container, memory int64) int {
	switch qosClass(&pod.Spec) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	if memory <= 0 {
		return 999
	}
	return int(min(max(1000-1000*c.Resources.Requests.Memory().Value()/memory, 3), 999))
}
