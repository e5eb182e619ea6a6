package server

import (
	"fmt"

	"github.com/opencontainers/cgroups"

	"kontiki/runtime/shim"
)

// unlimited: v1 shows a missing limit as the largest multiple of the page size.
const unlimited = 1 << 62

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
	m, err := cgroupAt(c.rec.Cgroup, &cgroups.Resources{})
	if err != nil {
		return shim.Stats{}, err
	}
	raw, err := m.GetStats()
	if err != nil {
		return shim.Stats{}, fmt.Errorf("stats of container %s: %w", id, err)
	}
	return convertStats(raw, oomKills(c.rec.Cgroup)), nil
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
	}
	if inactive := first("total_inactive_file", "inactive_file"); inactive < st.MemoryUsage {
		st.MemoryWorkingSet = st.MemoryUsage - inactive
	}
	if mem.Usage.Limit < unlimited {
		st.MemoryLimit = mem.Usage.Limit
	}
	return st
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
