package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// A sandbox is namespaces without a process: a thread of the shim makes them,
// binds them to files, which keep them alive, and ends.

// sandbox is one pod's; its spec never changes.
type sandbox struct {
	shim.Sandbox
	dir    string
	cgroup string

	mu      sync.Mutex // held while it is made or removed
	removed bool       // under Server.mu: no container may be put into it

	oomKills uint64 // under Server.mu: of the pod's slice, those that were told of; see oomKilled
}

const defaultShmBytes = 64 << 20

type pin struct {
	kind configs.NamespaceType
	flag int
	name string // below /proc/thread-self/ns
	path string
}

// pins are the namespaces that the sandbox has for itself.
func (sb *sandbox) pins() []pin {
	var pins []pin
	add := func(kind configs.NamespaceType, flag int, name string) {
		pins = append(pins, pin{kind, flag, name, filepath.Join(sb.dir, name)})
	}
	if !sb.HostNetwork {
		add(configs.NEWNET, unix.CLONE_NEWNET, "net")
		add(configs.NEWUTS, unix.CLONE_NEWUTS, "uts")
	}
	if !sb.HostIPC {
		add(configs.NEWIPC, unix.CLONE_NEWIPC, "ipc")
	}
	return pins
}

func (sb *sandbox) shm() string {
	if sb.HostIPC {
		return "/dev/shm"
	}
	return filepath.Join(sb.dir, "shm")
}

func (sb *sandbox) record() string { return filepath.Join(sb.dir, "sandbox.json") }

func (s *Server) newSandbox(spec shim.SandboxSpec) (*sandbox, error) {
	if err := checkID("sandbox", spec.ID); err != nil {
		return nil, err
	}
	if err := checkID("pod", spec.PodUID); err != nil {
		return nil, err
	}
	for name := range spec.Sysctls {
		if !namespacedSysctl(name, spec) {
			return nil, fmt.Errorf("sysctl %q is not of a namespace that the pod has for itself: %w", name, shim.ErrInvalid)
		}
	}
	group, err := s.tree.pod(spec.QOS, spec.PodUID)
	if err != nil {
		return nil, err
	}
	sb := &sandbox{Sandbox: shim.Sandbox{SandboxSpec: spec, Created: now()}, dir: s.layout.sandbox(spec.ID), cgroup: group}
	if !spec.HostNetwork {
		sb.NetNS = filepath.Join(sb.dir, "net")
	}
	return sb, nil
}

func namespacedSysctl(name string, spec shim.SandboxSpec) bool {
	if strings.HasPrefix(name, "net.") {
		return !spec.HostNetwork
	}
	for _, p := range []string{"kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."} {
		if strings.HasPrefix(name, p) {
			return !spec.HostIPC
		}
	}
	return false
}

func (s *Server) createSandbox(ctx context.Context, spec shim.SandboxSpec) (shim.Sandbox, error) {
	sb, err := s.raiseSandbox(spec)
	if err == nil && spec.SharePID {
		err = s.ensurePause(ctx, sb)
	}
	if err != nil {
		return shim.Sandbox{}, err
	}
	return sb.Sandbox, nil
}

// raiseSandbox makes what a sandbox is without a process, or finds it.
func (s *Server) raiseSandbox(spec shim.SandboxSpec) (*sandbox, error) {
	fresh, err := s.newSandbox(spec)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	sb, known := s.sandboxes[spec.ID]
	switch {
	case !known:
		sb = fresh
		s.sandboxes[spec.ID] = sb
	case sb.removed:
		err = fmt.Errorf("sandbox %s is being removed: %w", spec.ID, shim.ErrConflict)
	case !sameJSON(sb.SandboxSpec, spec):
		err = fmt.Errorf("sandbox %s: %w", spec.ID, shim.ErrConflict)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if known && sb.alive() {
		return sb, nil
	}
	if err := s.makeSandbox(sb); err != nil {
		err = fmt.Errorf("make sandbox %s: %w", spec.ID, err)
		if cerr := sb.takeDown(); cerr != nil {
			return nil, errors.Join(err, cerr) // still in the map: a removal tries again
		}
		s.mu.Lock()
		if s.sandboxes[spec.ID] == sb {
			delete(s.sandboxes, spec.ID)
		}
		s.mu.Unlock()
		return nil, err
	}
	return sb, nil
}

// alive: everything it consists of is there. After a reboot the files are, but not what was bound to them.
func (sb *sandbox) alive() bool {
	if _, err := os.Stat(sb.record()); err != nil {
		return false
	}
	for _, p := range sb.pins() {
		if !isFS(p.path, unix.NSFS_MAGIC) {
			return false
		}
	}
	return sb.HostIPC || isFS(sb.shm(), unix.TMPFS_MAGIC)
}

func isFS(path string, magic int64) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && int64(st.Type) == magic
}

func (s *Server) makeSandbox(sb *sandbox) error {
	if err := sb.unmount(); err != nil {
		return err
	}
	if err := os.MkdirAll(sb.dir, 0o711); err != nil {
		return err
	}
	if err := s.makePodCgroup(sb); err != nil {
		return err
	}
	s.expectMove()
	if !sb.HostIPC {
		size := sb.ShmBytes
		if size == 0 {
			size = defaultShmBytes
		}
		if err := os.MkdirAll(sb.shm(), 0o755); err != nil {
			return err
		}
		if err := unix.Mount("shm", sb.shm(), "tmpfs", guarded, fmt.Sprintf("mode=1777,size=%d", size)); err != nil {
			return fmt.Errorf("mount /dev/shm of the pod: %w", err)
		}
	}
	// The thread must never be used again: it is in the pod's namespaces. A
	// goroutine that ends while locked takes its thread along.
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- sb.pinNamespaces()
	}()
	if err := <-done; err != nil {
		return err
	}
	return writeJSON(sb.record(), sb.Sandbox)
}

func (s *Server) makePodCgroup(sb *sandbox) error {
	class, err := s.tree.class(sb.QOS)
	if err != nil {
		return err
	}
	if sb.QOS == shim.BestEffort {
		// The least there is, for all of the class together.
		if err := makeCgroup(class, convertResources(shim.Resources{CPUShares: 2})); err != nil {
			return err
		}
	}
	return makeCgroup(sb.cgroup, convertResources(sb.Resources))
}

// pinNamespaces runs on a thread of its own.
func (sb *sandbox) pinNamespaces() error {
	flags := 0
	for _, p := range sb.pins() {
		flags |= p.flag
	}
	if flags == 0 {
		return nil
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if !sb.HostNetwork {
		if sb.Hostname != "" {
			if err := unix.Sethostname([]byte(sb.Hostname)); err != nil {
				return fmt.Errorf("set the host name %q: %w", sb.Hostname, err)
			}
		}
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
	}
	for name, value := range sb.Sysctls {
		if err := os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0); err != nil {
			return fmt.Errorf("sysctl %s = %q: %w", name, value, err)
		}
	}
	for _, p := range sb.pins() {
		f, err := os.OpenFile(p.path, os.O_CREATE|os.O_RDONLY, 0o444)
		if err != nil {
			return err
		}
		f.Close()
		if err := unix.Mount("/proc/thread-self/ns/"+p.name, p.path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind the %s namespace: %w", p.name, err)
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

func (s *Server) removeSandbox(ctx context.Context, id string) error {
	s.mu.Lock()
	sb := s.sandboxes[id]
	if sb == nil {
		s.mu.Unlock()
		return nil
	}
	sb.removed = true
	var inside []string
	for _, c := range s.containers {
		if c.spec.SandboxID == id {
			inside = append(inside, c.spec.ID)
		}
	}
	s.mu.Unlock()
	for _, c := range inside {
		if err := s.deleteContainer(ctx, c); err != nil {
			return fmt.Errorf("remove sandbox %s: %w", id, err)
		}
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if err := s.removePodCgroup(sb); err != nil {
		return err
	}
	if err := sb.takeDown(); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	s.mu.Lock()
	if s.sandboxes[id] == sb {
		delete(s.sandboxes, id)
	}
	s.mu.Unlock()
	return nil
}

// removePodCgroup leaves the group to another sandbox of the same pod, if there is one.
func (s *Server) removePodCgroup(sb *sandbox) error {
	s.mu.Lock()
	shared := false
	for _, other := range s.sandboxes {
		shared = shared || other != sb && other.cgroup == sb.cgroup
	}
	s.mu.Unlock()
	if shared {
		return nil
	}
	return removeCgroup(sb.cgroup)
}

// takeDown removes the sandbox from the disk, its record first: without it
// the rest is garbage that the next shim clears away.
func (sb *sandbox) takeDown() error {
	if err := os.Remove(sb.record()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := sb.unmount(); err != nil {
		return err
	}
	return os.RemoveAll(sb.dir)
}

// unmount detaches lazily: a container that hangs in the kernel must not keep its pod from ending.
func (sb *sandbox) unmount() error {
	for _, name := range []string{"net", "uts", "ipc", "shm"} {
		path := filepath.Join(sb.dir, name)
		for {
			err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
				break // not mounted (any more)
			}
			if err != nil {
				return fmt.Errorf("unmount %s: %w", path, err)
			}
		}
	}
	return nil
}

func (s *Server) listSandboxes() []shim.Sandbox {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.sandboxes))
	s.mu.Unlock()
	list := make([]shim.Sandbox, 0, len(all))
	for _, sb := range all {
		if _, err := os.Stat(sb.record()); err != nil {
			continue // in the making
		}
		v := sb.Sandbox
		v.Lost = !sb.alive()
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b shim.Sandbox) int { return strings.Compare(a.ID, b.ID) })
	return list
}
