package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// record is what a successor needs to know of a container, besides
// libcontainer's own state: container.json.
type record struct {
	Format      int                `json:"format,omitempty"` // see recordFormat
	Spec        shim.ContainerSpec `json:"spec"`             // without what withoutSecrets leaves out
	Cgroup      string             `json:"cgroup"`
	Boot        string             `json:"boot"` // pids below are of this life of the machine
	Created     time.Time          `json:"created"`
	Complete    bool               `json:"complete"` // Create has succeeded; else it is garbage of an unfinished one
	Started     time.Time          `json:"started,omitzero"`
	StdinClosed bool               `json:"stdinClosed,omitempty"`
	Deleting    bool               `json:"deleting,omitempty"` // Delete has begun and has to be finished
}

// recordFormat is raised when a shim that does not know of a change would do harm to a container made with
// it: start more programs in it than it may, say. One that meets a higher number goes on watching the
// container, and stops and removes it; it starts nothing in it.
//
//	0  libcontainer's state has all of the seccomp profile
//	1  RuntimeDefault is in two halves (filter.go)
const recordFormat = 1

// container is one container. Its first process is watched by a goroutine from
// the end of Create on, which ends with it.
type container struct {
	spec    shim.ContainerSpec // never changes
	adopted bool               // of spec there is what its record has

	mu     sync.Mutex // held while something is done to it
	rec    record
	lc     *libcontainer.Container // nil: nothing of libcontainer's is left
	proc   *process                // nil: it has exited
	io     stdio
	failed error // Create did not succeed; it is out of the map

	// Under Server.mu:
	exit    *shim.Exit // nil: has not exited
	seq     uint64     // of exit in the stream, 0: acknowledged
	started time.Time
	release chan struct{} // a start is under way; closed when it is known whether the program began
	pid     int
	execs   []*execution // in order of their start

	exited chan struct{} // closed when exit is set
}

func newContainer(spec shim.ContainerSpec) *container {
	return &container{spec: spec, exited: make(chan struct{})}
}

// withoutSecrets is a specification without what may hold the values of Secrets: the
// environment, and arguments that refer to it. Nobody needs them once a process began, and
// they never come to lie on the disk.
func withoutSecrets(spec shim.ContainerSpec) shim.ContainerSpec {
	spec.Args, spec.Env = nil, nil
	return spec
}

// isOf tells if a container is what is asked for. Of one that an earlier shim made, arguments
// and environment are not known: what has its id, and all else, is it.
func (c *container) isOf(spec shim.ContainerSpec) bool {
	if c.adopted {
		spec = withoutSecrets(spec)
	}
	return sameJSON(c.spec, spec)
}

// save writes the record of a container.
func (s *Server) save(c *container) error {
	return writeJSON(s.layout.record(c.spec.ID), &c.rec)
}

// sameJSON compares what was asked for with what is asked for, as the disk and the wire see it.
func sameJSON(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

func (s *Server) create(_ context.Context, spec shim.ContainerSpec) (shim.Container, error) {
	if err := checkContainer(&spec); err != nil {
		return shim.Container{}, err
	}
	for {
		c, sb, fresh, err := s.reserve(spec)
		if err != nil {
			return shim.Container{}, err
		}
		if fresh { // locked by reserve
			err := s.make(c, sb)
			c.failed = err
			c.mu.Unlock()
			if err != nil {
				return shim.Container{}, fmt.Errorf("create container %s: %w", spec.ID, err)
			}
			return s.view(c), nil
		}
		c.mu.Lock() // waits for the Create or Delete that is under way
		failed, deleting := c.failed, c.rec.Deleting
		c.mu.Unlock()
		switch {
		case failed != nil:
			continue // that one is out of the map: our turn
		case deleting:
			return shim.Container{}, fmt.Errorf("container %s is being deleted: %w", spec.ID, shim.ErrConflict)
		case !c.isOf(spec):
			return shim.Container{}, fmt.Errorf("container %s: %w", spec.ID, shim.ErrConflict)
		}
		return s.view(c), nil
	}
}

// reserve finds the container, or puts a new one, locked, into the map.
func (s *Server) reserve(spec shim.ContainerSpec) (c *container, sb *sandbox, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[spec.ID]; c != nil {
		return c, nil, false, nil
	}
	sb = s.sandboxes[spec.SandboxID]
	if sb == nil {
		return nil, nil, false, fmt.Errorf("container %s: sandbox %q: %w", spec.ID, spec.SandboxID, shim.ErrNotFound)
	}
	if sb.removed {
		return nil, nil, false, fmt.Errorf("container %s: sandbox %q is being removed: %w", spec.ID, spec.SandboxID, shim.ErrConflict)
	}
	c = newContainer(spec)
	c.mu.Lock()
	s.containers[spec.ID] = c
	return c, sb, true, nil
}

// make does the work of Create; whatever it has begun when it fails, it takes back. c.mu is held.
func (s *Server) make(c *container, sb *sandbox) (err error) {
	sb.mu.Lock() // the sandbox may still be in the making
	alive := sb.alive()
	sb.mu.Unlock()
	c.rec = record{Format: recordFormat, Spec: withoutSecrets(c.spec), Cgroup: containerGroup(sb.cgroup, c.spec.ID), Boot: s.boot, Created: now()}
	defer func() {
		if err == nil {
			return
		}
		if perr := s.purge(c.rec); perr != nil {
			s.log.Error("cannot clear away a failed container", "container", c.spec.ID, "error", perr)
		}
		s.mu.Lock()
		delete(s.containers, c.spec.ID)
		s.mu.Unlock()
	}()
	if !alive {
		return fmt.Errorf("sandbox %s lost its namespaces (a reboot?); create it again: %w", sb.ID, shim.ErrNotFound)
	}
	// A folder without a container in memory is what a failed purge left.
	if err := s.purge(c.rec); err != nil {
		return err
	}
	pid, err := s.pidNamespace(&c.spec, sb)
	if err != nil {
		return err
	}
	config, err := containerConfig(&c.spec, sb, c.rec.Cgroup, pid, s.oomFloor)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.layout.execs(c.spec.ID), 0o700); err != nil {
		return err
	}
	if c.spec.ID == shim.PauseID(sb.ID) {
		if err := s.preparePause(c.spec.ID); err != nil {
			return err
		}
	}
	if err := s.save(c); err != nil {
		return err
	}
	if c.lc, err = libcontainer.Create(s.layout.libcontainer(), c.spec.ID, config); err != nil {
		return err
	}
	if err := s.startInit(c); err != nil {
		return err
	}
	c.rec.Complete = true
	if err := s.save(c); err != nil {
		s.abandon(c)
		return err
	}
	s.setPID(c, c.proc.pid)
	s.watch(c)
	return nil
}

// startInit runs libcontainer's part up to where the container's program would begin.
func (s *Server) startInit(c *container) (err error) {
	files, err := s.openStdio(c)
	if err != nil {
		return err
	}
	defer files.close()
	defer func() {
		if err != nil {
			c.io.close()
		}
	}()
	noNewPrivileges := c.spec.NoNewPrivileges
	p := &libcontainer.Process{
		Args:             c.spec.Args,
		Env:              c.spec.Env,
		Cwd:              cmpOr(c.spec.Cwd, "/"),
		UID:              int(c.spec.User.UID),
		GID:              int(c.spec.User.GID),
		AdditionalGroups: convertGroups(c.spec.User.AdditionalGroups),
		NoNewPrivileges:  &noNewPrivileges,
		Init:             true,
		LogLevel:         initLogLevel,
	}
	files.attach(p)
	proc, err := s.fork(c, p)
	if err != nil {
		return err
	}
	c.proc = proc
	if c.spec.Tty {
		if c.io.console, err = files.receiveConsole(); err != nil {
			s.abandon(c)
			return err
		}
	}
	return nil
}

// initLogLevel is logrus's "warning": what the init stage has to say below that is of no use to anyone.
const initLogLevel = "3"

func cmpOr(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// fork starts a process of a container through libcontainer and opens it before anybody can reap it.
func (s *Server) fork(c *container, p *libcontainer.Process) (*process, error) {
	filter, err := s.filters.early(&c.spec, c.lc.Config().Seccomp)
	if err != nil {
		return nil, err
	}
	defer filter.Close()
	p.ExtraFiles = []*os.File{filter} // see filterFD
	end := s.reaper.begin()
	defer end()
	if err := c.lc.Start(p); err != nil {
		return nil, err
	}
	pid, err := p.Pid()
	if err != nil {
		return nil, err
	}
	proc, err := openProcess(pid, 0)
	if err != nil { // out of descriptors: without one it cannot be watched
		p.Signal(unix.SIGKILL)
		p.Wait()
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	s.reaper.watch(pid)
	return proc, nil
}

// abandon ends a process that was forked and will not be used.
func (s *Server) abandon(c *container) {
	c.proc.signal(unix.SIGKILL)
	c.proc.wait()
	s.reaper.unwatch(c.proc.pid)
	c.proc = nil
}

// purge removes all that can be left of a container that is not, or no more, in use. Repeatable.
func (s *Server) purge(rec record) error {
	id := rec.Spec.ID
	if err := killCgroup(rec.Cgroup); err != nil {
		return err
	}
	if err := removeCgroup(rec.Cgroup); err != nil {
		return err
	}
	for _, p := range []string{s.layout.libcontainerOf(id), s.layout.exit(id), s.layout.container(id)} {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}

// find returns a container that Create has finished with, locked.
func (s *Server) find(id string) (*container, error) {
	s.mu.Lock()
	c := s.containers[id]
	s.mu.Unlock()
	if c != nil {
		c.mu.Lock()
		s.mu.Lock()
		same := s.containers[id] == c
		s.mu.Unlock()
		if same {
			return c, nil
		}
		c.mu.Unlock()
	}
	return nil, fmt.Errorf("container %q: %w", id, shim.ErrNotFound)
}

func (s *Server) signal(_ context.Context, id string, sig unix.Signal) error {
	if sig <= 0 || sig > 64 {
		return fmt.Errorf("signal %d: %w", sig, shim.ErrInvalid)
	}
	c, err := s.find(id)
	if err != nil {
		return err
	}
	defer c.mu.Unlock()
	return s.signalLocked(c, sig)
}

func (s *Server) signalLocked(c *container, sig unix.Signal) error {
	if sig == unix.SIGKILL && s.sharesPID(c) {
		// Without a PID namespace of its own the others do not die with the first.
		return killCgroup(c.rec.Cgroup)
	}
	if c.proc == nil {
		return nil
	}
	err := c.proc.signal(sig)
	if sig == unix.SIGKILL {
		thaw(c.rec.Cgroup)
	}
	return err
}

// deleteContainer ends and removes it. Deleting is written down first, so that a successor finishes what this began.
func (s *Server) deleteContainer(ctx context.Context, id string) error {
	c, err := s.find(id)
	if errors.Is(err, shim.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.mu.Unlock()
	c.rec.Deleting = true
	if err := s.save(c); err != nil {
		return fmt.Errorf("delete container %s: %w", id, err)
	}
	if err := s.signalLocked(c, unix.SIGKILL); err != nil {
		return fmt.Errorf("delete container %s: %w", id, err)
	}
	select {
	case <-c.exited:
	case <-ctx.Done():
		return fmt.Errorf("delete container %s: its process %d was killed and has not ended: %w", id, s.view(c).PID, ctx.Err())
	}
	s.waitExecs(ctx, c)
	if c.lc != nil {
		if err := c.lc.Destroy(); err != nil {
			s.log.Warn("libcontainer could not remove a container; removing it by hand", "container", id, "error", err)
		}
		c.lc = nil
	}
	c.io.close()
	if err := s.purge(c.rec); err != nil {
		return fmt.Errorf("delete container %s: %w", id, err)
	}
	s.mu.Lock()
	delete(s.containers, id)
	s.mu.Unlock()
	return nil
}

func (s *Server) setPID(c *container, pid int) {
	s.mu.Lock()
	c.pid = pid
	s.mu.Unlock()
}

// view describes a container; it needs no lock of the caller's.
func (s *Server) view(c *container) shim.Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.viewLocked(c)
}

func (s *Server) viewLocked(c *container) shim.Container {
	v := shim.Container{
		ID: c.spec.ID, SandboxID: c.spec.SandboxID, Labels: c.spec.Labels,
		Created: c.rec.Created, Started: c.started, IO: s.ioPaths(&c.spec),
	}
	switch {
	case c.exit != nil:
		exit := *c.exit
		v.Status, v.Exit = shim.Exited, &exit
	case c.started.IsZero():
		v.Status, v.PID = shim.Created, c.pid
	default:
		v.Status, v.PID = shim.Running, c.pid
	}
	return v
}

// listContainers leaves out those whose Create is under way: they may come to nothing.
func (s *Server) listContainers() []shim.Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]shim.Container, 0, len(s.containers))
	for _, c := range s.containers {
		if c.pid != 0 || c.exit != nil {
			list = append(list, s.viewLocked(c))
		}
	}
	slices.SortFunc(list, func(a, b shim.Container) int { return strings.Compare(a.ID, b.ID) })
	return list
}

func (s *Server) state(id string) (shim.Container, error) {
	c, err := s.find(id)
	if err != nil {
		return shim.Container{}, err
	}
	defer c.mu.Unlock()
	return s.view(c), nil
}
