package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // sets device rules; without it no container starts
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"
)

// cgroupAt is the manager of one group by its path from the hierarchy's root.
func cgroupAt(p string, r *cgroups.Resources) (cgroups.Manager, error) {
	r.SkipDevices = true // of a parent: rules are its children's matter
	return manager.New(groupConfig(p, r))
}

// makeCgroup makes a parent group and sets its limits.
func makeCgroup(p string, r *cgroups.Resources) error {
	m, err := cgroupAt(p, r)
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", p, err)
	}
	if err := m.Apply(-1); err != nil {
		return fmt.Errorf("make cgroup %s: %w", p, err)
	}
	if err := m.Set(r); err != nil {
		return fmt.Errorf("limit cgroup %s: %w", p, err)
	}
	return nil
}

// removeCgroup removes a group without processes, with groups that a container made below it.
func removeCgroup(p string) error {
	m, err := cgroupAt(p, &cgroups.Resources{})
	if err != nil {
		return err
	}
	if !thereIs(m) {
		return nil
	}
	if err := m.Destroy(); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", p, err)
	}
	return nil
}

// thereIs: the group exists in some hierarchy. To ask systemd to end what is not there would cost two calls.
func thereIs(m cgroups.Manager) bool {
	for _, p := range m.GetPaths() {
		if cgroups.PathExists(p) {
			return true
		}
	}
	return false
}

// killCgroup sends SIGKILL to everything in a group until it is empty, for
// containers whose state does not say who is in it. Bounded: a process that
// survives that many rounds hangs in the kernel.
func killCgroup(p string) error {
	m, err := cgroupAt(p, &cgroups.Resources{})
	if err != nil {
		return err
	}
	for range 100 {
		pids, err := m.GetAllPids()
		if errors.Is(err, os.ErrNotExist) || err == nil && len(pids) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		m.Freeze(cgroups.Thawed) // on v1 a frozen process does not die
		for _, pid := range pids {
			proc, err := openProcess(pid, 0)
			if err != nil {
				continue
			}
			proc.signal(unix.SIGKILL)
			waitGone(proc)
		}
	}
	return fmt.Errorf("processes in cgroup %s do not die", p)
}

// thaw lets a frozen group go on: on v1 what is frozen does not die. One that is
// gone needs nothing.
func thaw(p string) {
	m, err := cgroupAt(p, &cgroups.Resources{})
	if err != nil {
		return
	}
	if state, err := m.GetFreezerState(); err == nil && state == cgroups.Frozen {
		_ = m.Freeze(cgroups.Thawed)
	}
}

// waitGone waits a moment for a killed process to leave its groups, which it does when it becomes a zombie.
func waitGone(p *process) {
	if raw, err := p.pidfd.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		})
	}
	p.close()
}

// enterOwnCgroup moves the shim out of the group of whoever started it, so that
// a service manager that ends that group spares it. On v1 only where services
// are tracked and where memory is charged: each move can cost 10 ms there.
func enterOwnCgroup(t tree) error {
	if t.systemd {
		name := fmt.Sprintf("shim-%d", os.Getpid())
		m, err := manager.New(&cgroups.Cgroup{Systemd: true, Parent: "system.slice", ScopePrefix: scopePrefix, Name: name, Resources: &cgroups.Resources{SkipDevices: true}})
		if err != nil {
			return err
		}
		return m.Apply(os.Getpid())
	}
	if cgroups.IsCgroup2UnifiedMode() {
		return enter(filepath.Join("/sys/fs/cgroup", t.shim()))
	}
	mounts, err := cgroups.GetCgroupMounts(true)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		for _, s := range m.Subsystems {
			if s == "memory" || s == "systemd" || s == "name=systemd" {
				if err := enter(filepath.Join(m.Mountpoint, t.shim())); err != nil {
					return err
				}
			}
		}
	}
	if unified := "/sys/fs/cgroup/unified"; cgroups.PathExists(filepath.Join(unified, "cgroup.procs")) {
		return enter(filepath.Join(unified, t.shim()))
	}
	return nil
}

// expectMove has the kernel ready for a process that is about to be moved into its groups. The first move
// after a while waits for all CPUs (a grace period of RCU, 10 ms on an idle machine), those that follow
// soon do not. A move of this process to where it is begins that wait beside what else a pod waits for.
func (s *Server) expectMove() {
	if s.ownGroup == "" || !s.expecting.CompareAndSwap(false, true) {
		return // not known, or one is under way
	}
	s.tasks.Go(func() {
		defer s.expecting.Store(false)
		if err := cgroups.WriteCgroupProc(s.ownGroup, os.Getpid()); err != nil {
			s.log.Debug("cannot prepare for moves into cgroups; the next takes longer", "error", err)
		}
	})
}

// ownGroup is the folder of the group that this process is in; on v1, in the hierarchy of memory.
func ownGroup() (string, error) {
	if !cgroups.IsCgroup2UnifiedMode() {
		return cgroups.GetOwnCgroupPath("memory")
	}
	groups, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	return filepath.Join("/sys/fs/cgroup", groups[""]), err
}

// leaveTree ends the slices that no pod is in any more: systemd keeps empty ones. Folders are removed by
// whoever takes the node down.
func (s *Server) leaveTree() {
	s.mu.Lock()
	empty := len(s.sandboxes) == 0
	s.mu.Unlock()
	if !empty || !s.tree.systemd {
		return
	}
	if err := removeCgroup(s.tree.kubepods()); err != nil {
		s.log.Warn("cannot end the slice of pods", "error", err)
	}
}

func enter(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return cgroups.WriteCgroupProc(dir, os.Getpid())
}

// swapIsAccounted: v1 refuses a swap limit when its kernel does not count swap; v2 copes.
var swapIsAccounted = sync.OnceValue(func() bool {
	return cgroups.IsCgroup2UnifiedMode() || cgroups.PathExists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
})
