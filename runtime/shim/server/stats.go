package server

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// unlimited: v1 shows a missing limit as the largest multiple of the page size,
// v2 as the largest number.
const unlimited = 1 << 62

// counted are the controllers that statistics are read of. The library reads
// several files for each.
const counted = cgroups.CPU | cgroups.Memory | cgroups.Pids

func (s *Server) stats(id string) (shim.Stats, error) {
	c, err := s.find(id)
	if err != nil {
		return shim.Stats{}, err
	}
	defer c.mu.Unlock()
	select {
	case <-c.exited:
		return shim.Stats{}, fmt.Errorf("stats of container %s: %w", id, shim.ErrNotRunning)
	default:
	}
	st, err := readStats(c.rec.Cgroup)
	if err != nil {
		return shim.Stats{}, fmt.Errorf("stats of container %s: %w", id, err)
	}
	return st, nil
}

// usage reads every group of the node. It takes no container's lock: a group
// that is removed meanwhile cannot be read, and is left out.
func (s *Server) usage(ctx context.Context) (shim.Usage, error) {
	u := shim.Usage{Shim: ownStats(), Sandboxes: map[string]shim.Stats{}, Containers: map[string]shim.Stats{}}
	s.mu.Lock()
	groups := make(map[string]string, len(s.containers))
	for id, c := range s.containers {
		if c.exit == nil && c.pid != 0 {
			groups[id] = containerGroup(s.groupOfLocked(c.spec.SandboxID), id)
		}
	}
	pods := make(map[string]string, len(s.sandboxes))
	for id, sb := range s.sandboxes {
		pods[id] = sb.cgroup
	}
	s.mu.Unlock()
	// From the inside out: a group never seems to have had less than what is in it.
	for _, set := range []struct {
		groups map[string]string
		into   map[string]shim.Stats
	}{{groups, u.Containers}, {pods, u.Sandboxes}} {
		for id, group := range set.groups {
			if ctx.Err() != nil {
				return shim.Usage{}, ctx.Err()
			}
			if st, err := readStats(group); err == nil {
				set.into[id] = st
			} else if !errors.Is(err, errNoGroup) {
				s.log.Debug("cannot read a cgroup", "cgroup", group, "error", err)
			}
		}
	}
	for _, group := range []struct {
		path string
		into *shim.Stats
	}{{s.tree.kubepods(), &u.Pods}, {"/", &u.Machine}} {
		st, err := readStats(group.path)
		if err != nil {
			return shim.Usage{}, err
		}
		*group.into = st
	}
	return u, nil
}

func (s *Server) groupOfLocked(sandbox string) string {
	if sb := s.sandboxes[sandbox]; sb != nil {
		return sb.cgroup
	}
	return ""
}

// ownStats is what this process uses. Its cgroup would not tell: on v1 it is in one only where that matters.
func ownStats() shim.Stats {
	st := shim.Stats{At: now(), Pids: 1}
	var ru unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &ru) == nil {
		st.CPUNanos = uint64(ru.Utime.Nano() + ru.Stime.Nano())
	}
	var pages uint64
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if _, err := fmt.Sscanf(string(b), "%d %d", new(uint64), &pages); err == nil {
			st.MemoryRSS = pages * uint64(os.Getpagesize())
			st.MemoryUsage, st.MemoryWorkingSet = st.MemoryRSS, st.MemoryRSS
		}
	}
	return st
}

// errNoGroup: the group is not, or no more, there.
var errNoGroup = errors.New("there is no such cgroup")

func readStats(group string) (shim.Stats, error) {
	m, err := cgroupAt(group, &cgroups.Resources{})
	if err != nil {
		return shim.Stats{}, err
	}
	if !cgroups.PathExists(m.Path("memory")) { // not m.Exists: a parent is in no devices group on v1
		return shim.Stats{}, fmt.Errorf("cgroup %s: %w", group, errNoGroup)
	}
	opts := cgroups.StatsOptions{Controllers: counted}
	if group == "/" {
		opts.Controllers &^= cgroups.Pids // the root counts none
	}
	if cgroups.IsCgroup2UnifiedMode() {
		opts.Controllers |= cgroups.IO // for its pressure
	}
	raw, err := m.Stats(&opts)
	if err != nil {
		return shim.Stats{}, fmt.Errorf("read cgroup %s: %w", group, err)
	}
	kills, _ := oomKills(group)
	return convertStats(raw, kills), nil
}

func convertStats(raw *cgroups.Stats, oom uint64) shim.Stats {
	mem := raw.MemoryStats
	// The same quantities have other names in v1 and v2.
	first := func(names ...string) uint64 {
		for _, n := range names {
			if v, ok := mem.Stats[n]; ok {
				return v
			}
		}
		return 0
	}
	st := shim.Stats{
		At:                now(),
		CPUNanos:          raw.CpuStats.CpuUsage.TotalUsage,
		CPUThrottledNanos: raw.CpuStats.ThrottlingData.ThrottledTime,
		MemoryUsage:       mem.Usage.Usage,
		MemoryRSS:         first("total_rss", "anon"),
		PageFaults:        first("total_pgfault", "pgfault"),
		MajorPageFaults:   first("total_pgmajfault", "pgmajfault"),
		Pids:              raw.PidsStats.Current,
		OOMKills:          oom,
		Pressure:          convertPressure(raw),
	}
	if inactive := first("total_inactive_file", "inactive_file"); inactive < st.MemoryUsage {
		st.MemoryWorkingSet = st.MemoryUsage - inactive
	}
	if mem.Usage.Limit < unlimited {
		st.MemoryLimit = mem.Usage.Limit
	}
	if swapIsAccounted() {
		st.Swap = &shim.Swap{Bytes: mem.SwapOnlyUsage.Usage}
		if limit := mem.SwapOnlyUsage.Limit; limit < unlimited {
			st.Swap.Limit = limit
		}
	}
	return st
}

func convertPressure(raw *cgroups.Stats) *shim.Pressure {
	if raw.CpuStats.PSI == nil || raw.MemoryStats.PSI == nil || raw.BlkioStats.PSI == nil {
		return nil
	}
	stall := func(p *cgroups.PSIStats) shim.Stall {
		return shim.Stall{Some: shim.StallTime(p.Some), Full: shim.StallTime(p.Full)}
	}
	return &shim.Pressure{CPU: stall(raw.CpuStats.PSI), Memory: stall(raw.MemoryStats.PSI), IO: stall(raw.BlkioStats.PSI)}
}

// update changes the limits of a container; what is zero stays.
func (s *Server) update(id string, r shim.Resources) error {
	c, err := s.find(id)
	if err != nil {
		return err
	}
	defer c.mu.Unlock()
	if c.lc == nil {
		return fmt.Errorf("update container %s: %w", id, shim.ErrNotRunning)
	}
	config := c.lc.Config()
	next := *config.Cgroups
	resources := *next.Resources
	mergeResources(&resources, convertResources(r))
	next.Resources = &resources
	config.Cgroups = &next
	if err := c.lc.Set(config); err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	return nil
}

func mergeResources(into, from *cgroups.Resources) {
	if from.CpuShares != 0 {
		into.CpuShares, into.CpuWeight = from.CpuShares, from.CpuWeight
	}
	if from.CpuQuota != 0 {
		into.CpuQuota, into.CpuPeriod = from.CpuQuota, from.CpuPeriod
	}
	if from.Memory != 0 {
		into.Memory, into.MemorySwap = from.Memory, from.MemorySwap
	}
	if from.PidsLimit != nil {
		into.PidsLimit = from.PidsLimit
	}
}
