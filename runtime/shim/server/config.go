package server

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/devices"
	"github.com/opencontainers/cgroups"
	devconfig "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// checkContainer refuses what no attempt could carry out.
func checkContainer(spec *shim.ContainerSpec) error {
	if err := checkID("container", spec.ID); err != nil {
		return err
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("container %s: %s: %w", spec.ID, fmt.Sprintf(format, args...), shim.ErrInvalid)
	}
	switch {
	case len(spec.Args) == 0 || spec.Args[0] == "":
		return bad("args name no program")
	case !filepath.IsAbs(spec.Rootfs):
		return bad("root file system %q is not an absolute path", spec.Rootfs)
	case spec.Cwd != "" && !filepath.IsAbs(spec.Cwd):
		return bad("working directory %q is not an absolute path", spec.Cwd)
	}
	for _, m := range spec.Mounts {
		if !filepath.IsAbs(m.Destination) {
			return bad("mount destination %q is not an absolute path", m.Destination)
		}
		if m.Type == shim.MountBind && !filepath.IsAbs(m.Source) {
			return bad("source %q of the mount at %s is not an absolute path", m.Source, m.Destination)
		}
	}
	for _, e := range spec.Env {
		if i := strings.IndexByte(e, '='); i <= 0 || strings.IndexByte(e, 0) >= 0 {
			return bad("environment entry %q is not NAME=value", e)
		}
	}
	return nil
}

// containerConfig turns a specification into libcontainer's configuration.
// Its OOM score is oomFloor at least.
func containerConfig(spec *shim.ContainerSpec, sb *sandbox, cgroupPath, pidNamespace string, oomFloor int) (*configs.Config, error) {
	mounts, shared, err := containerMounts(spec, sb)
	if err != nil {
		return nil, err
	}
	seccomp, err := seccompProfile(spec)
	if err != nil {
		return nil, err
	}
	rlimits, err := convertRlimits(spec.Rlimits)
	if err != nil {
		return nil, err
	}
	resources := convertResources(spec.Resources)
	oomScore := max(spec.OOMScoreAdj, oomFloor)
	config := &configs.Config{
		Rootfs:          spec.Rootfs,
		Readonlyfs:      spec.ReadonlyRootfs,
		Mounts:          mounts,
		Namespaces:      containerNamespaces(spec, sb, pidNamespace),
		Capabilities:    convertCapabilities(spec.Capabilities),
		NoNewPrivileges: spec.NoNewPrivileges,
		Seccomp:         seccomp,
		MaskPaths:       spec.MaskedPaths,
		ReadonlyPaths:   spec.ReadonlyPaths,
		Rlimits:         rlimits,
		OomScoreAdj:     &oomScore,
		Cgroups:         groupConfig(cgroupPath, resources),
	}
	if shared {
		config.RootPropagation = unix.MS_SHARED | unix.MS_REC
	}
	return config, addDevices(config, spec.Privileged)
}

// containerNamespaces: mounts and (mostly) processes of its own, the rest is
// the sandbox's. What the sandbox shares with the host is not listed, and so stays the shim's.
// pid is the namespace of other processes that it joins, if any.
func containerNamespaces(spec *shim.ContainerSpec, sb *sandbox, pid string) configs.Namespaces {
	ns := configs.Namespaces{{Type: configs.NEWNS}}
	if !spec.HostPID {
		ns = append(ns, configs.Namespace{Type: configs.NEWPID, Path: pid})
	}
	for _, pin := range sb.pins() {
		ns = append(ns, configs.Namespace{Type: pin.kind, Path: pin.path})
	}
	if cgroups.IsCgroup2UnifiedMode() && !spec.Privileged {
		ns = append(ns, configs.Namespace{Type: configs.NEWCGROUP})
	}
	return ns
}

func convertCapabilities(names []string) *configs.Capabilities {
	// Not inheritable and not ambient: a process that leaves uid 0 loses them, as in other engines.
	return &configs.Capabilities{Bounding: names, Effective: names, Permitted: names}
}

func convertResources(r shim.Resources) *cgroups.Resources {
	out := &cgroups.Resources{
		CpuShares: r.CPUShares,
		CpuQuota:  r.CPUQuota,
		CpuPeriod: r.CPUPeriod,
		Memory:    r.MemoryBytes,
	}
	if r.CPUShares != 0 {
		out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(r.CPUShares)
	}
	if r.CPUQuota != 0 && r.CPUPeriod == 0 {
		out.CpuPeriod = 100_000
	}
	if r.MemoryBytes != 0 && swapIsAccounted() {
		out.MemorySwap = r.MemoryBytes // v1 counts memory and swap together: none on top
	}
	if r.Pids != 0 {
		out.PidsLimit = &r.Pids
	}
	if r.MemoryBytes != 0 && cgroups.IsCgroup2UnifiedMode() {
		// A container that lost a process to the OOM killer is no longer whole: upstream ends all of it.
		out.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return out
}

func addDevices(config *configs.Config, privileged bool) error {
	for _, d := range specconv.AllowedDevices {
		config.Cgroups.Resources.Devices = append(config.Cgroups.Resources.Devices, &d.Rule)
		if d.Path != "" {
			config.Devices = append(config.Devices, d)
		}
	}
	if !privileged {
		return nil
	}
	config.Cgroups.Resources.Devices = []*devconfig.Rule{{
		Type: devconfig.WildcardDevice, Major: devconfig.Wildcard, Minor: devconfig.Wildcard, Permissions: "rwm", Allow: true,
	}}
	host, err := devices.HostDevices()
	if err != nil {
		return fmt.Errorf("list the host's devices for a privileged container: %w", err)
	}
	have := map[string]bool{}
	for _, d := range config.Devices {
		have[d.Path] = true
	}
	for _, d := range host {
		if !have[d.Path] {
			config.Devices = append(config.Devices, d)
		}
	}
	return nil
}

// rlimitNumbers: linux/resource.h.
var rlimitNumbers = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_STACK": unix.RLIMIT_STACK,
	"RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

func convertRlimits(in []shim.Rlimit) ([]configs.Rlimit, error) {
	var out []configs.Rlimit
	for _, r := range in {
		number, ok := rlimitNumbers[r.Type]
		if !ok {
			return nil, fmt.Errorf("resource limit %q is unknown; known are %v: %w", r.Type, slices.Sorted(maps.Keys(rlimitNumbers)), shim.ErrInvalid)
		}
		out = append(out, configs.Rlimit{Type: number, Soft: r.Soft, Hard: r.Hard})
	}
	return out, nil
}

func convertGroups(in []uint32) []int {
	out := make([]int, len(in))
	for i, g := range in {
		out[i] = int(g)
	}
	return out
}
