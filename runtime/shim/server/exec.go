package server

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// execution is one more process in a container. Everything but id is under Server.mu.
type execution struct {
	id     string
	proc   *process // nil: the shim did not see its end
	exit   *shim.Exit
	exited chan struct{}
}

// execRecord is written once an exec runs, so that a successor watches it. What runs is not
// in it: see withoutSecrets.
type execRecord struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
}

// keptExecs bounds how many ended execs of a container can still be asked for.
// Running ones are not counted; keptExecs of those at once are the most there may be.
const keptExecs = 64

// exec starts a process in a container. An id that is known is not started
// again; a repeated call for a terminal therefore gets none, and says so.
func (s *Server) exec(_ context.Context, body shim.ExecBody, files []*os.File) ([]*os.File, error) {
	spec := body.Spec
	if err := checkID("exec", spec.ID); err != nil {
		return nil, err
	}
	if len(spec.Args) == 0 || spec.Args[0] == "" {
		return nil, fmt.Errorf("exec %s: args name no program: %w", spec.ID, shim.ErrInvalid)
	}
	stdio, err := execFiles(body, files)
	if err != nil {
		return nil, err
	}
	defer stdio.close()
	c, err := s.find(body.Container)
	if err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	if c.rec.Format > recordFormat {
		return nil, fmt.Errorf("exec in container %s: it was made by a newer kontiki-shim, whose rules this one does not know; upgrade the node, or delete the pod: %w", c.spec.ID, shim.ErrNewer)
	}
	if err := s.mayExec(c, spec); err != nil {
		return nil, err
	}
	noNewPrivileges := spec.NoNewPrivileges
	p := &libcontainer.Process{
		Args:             spec.Args,
		Env:              spec.Env,
		Cwd:              cmpOr(spec.Cwd, "/"),
		UID:              int(spec.User.UID),
		GID:              int(spec.User.GID),
		AdditionalGroups: convertGroups(spec.User.AdditionalGroups),
		Capabilities:     convertCapabilities(spec.Capabilities),
		NoNewPrivileges:  &noNewPrivileges,
		ConsoleWidth:     spec.Width,
		ConsoleHeight:    spec.Height,
		LogLevel:         initLogLevel,
	}
	stdio.attach(p)
	proc, err := s.fork(c, p)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", body.Container, err)
	}
	e := &execution{id: spec.ID, proc: proc, exited: make(chan struct{})}
	rec := execRecord{PID: proc.pid, StartTime: proc.startTime}
	if err := writeJSON(s.layout.exec(c.spec.ID, e.id), rec); err != nil {
		s.log.Warn("cannot record an exec; a successor will not know it", "container", c.spec.ID, "error", err)
	}
	s.addExec(c, e)
	s.watchExec(c, e)
	if !spec.Tty {
		return nil, nil
	}
	master, err := stdio.receiveConsole()
	if err != nil {
		proc.signal(unix.SIGKILL)
		return nil, err
	}
	// The client alone holds it: when it goes away, the process gets the SIGHUP of a closed terminal.
	return []*os.File{os.NewFile(uintptr(master), "console")}, nil
}

// execFiles sorts the passed descriptors into standard streams.
func execFiles(body shim.ExecBody, files []*os.File) (*childFiles, error) {
	if body.Spec.Tty {
		return consoleFiles()
	}
	if len(body.Streams) != len(files) {
		return nil, fmt.Errorf("exec: %d streams are named and %d files passed: %w", len(body.Streams), len(files), shim.ErrInvalid)
	}
	out := &childFiles{}
	for i, stream := range body.Streams {
		switch stream {
		case 0:
			out.stdin = files[i]
		case 1:
			out.stdout = files[i]
		case 2:
			out.stderr = files[i]
		default:
			return nil, fmt.Errorf("exec: no stream has number %d: %w", stream, shim.ErrInvalid)
		}
	}
	return out, nil
}

func (s *Server) mayExec(c *container, spec shim.ExecSpec) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.exit != nil || c.started.IsZero() || c.lc == nil {
		return fmt.Errorf("exec in container %s: %w", c.spec.ID, shim.ErrNotRunning)
	}
	running := 0
	for _, e := range c.execs {
		if e.id == spec.ID {
			return fmt.Errorf("exec %s in container %s was started before: %w", spec.ID, c.spec.ID, shim.ErrConflict)
		}
		if e.exit == nil {
			running++
		}
	}
	if running >= keptExecs {
		return fmt.Errorf("container %s has %d execs running, the most it may have", c.spec.ID, running)
	}
	return nil
}

// addExec forgets the oldest that have ended, above the bound.
func (s *Server) addExec(c *container, e *execution) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.execs = append(c.execs, e)
	for i := 0; len(c.execs) > keptExecs && i < len(c.execs); {
		if c.execs[i].exit == nil {
			i++
			continue
		}
		os.Remove(s.layout.exec(c.spec.ID, c.execs[i].id))
		c.execs = append(c.execs[:i], c.execs[i+1:]...)
	}
}

func (s *Server) watchExec(c *container, e *execution) {
	s.tasks.Go(func() {
		end, ok := e.proc.wait()
		if !ok {
			return
		}
		s.reaper.unwatch(e.proc.pid)
		s.finishExec(c, e, end)
	})
}

func (s *Server) finishExec(c *container, e *execution, end ending) {
	exit := &shim.Exit{ContainerID: c.spec.ID, SandboxID: c.spec.SandboxID, Unknown: end.unknown, At: now()}
	exit.Code, exit.Signal = end.codeOf()
	s.mu.Lock()
	e.exit = exit
	close(e.exited)
	s.mu.Unlock()
}

func (s *Server) findExec(container, id string) (*execution, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[container]; c != nil {
		for _, e := range c.execs {
			if e.id == id {
				return e, nil
			}
		}
	}
	return nil, fmt.Errorf("exec %q in container %q: %w", id, container, shim.ErrNotFound)
}

func (s *Server) waitExec(ctx context.Context, container, id string) (shim.Exit, error) {
	e, err := s.findExec(container, id)
	if err != nil {
		return shim.Exit{}, err
	}
	select {
	case <-e.exited:
		return *e.exit, nil
	case <-ctx.Done():
		return shim.Exit{}, ctx.Err()
	}
}

func (s *Server) signalExec(container, id string, sig unix.Signal) error {
	if sig <= 0 || sig > 64 {
		return fmt.Errorf("signal %d: %w", sig, shim.ErrInvalid)
	}
	e, err := s.findExec(container, id)
	if err != nil || e.proc == nil {
		return err
	}
	return e.proc.signal(sig)
}

// waitExecs waits until the execs of a container that has ended are reaped: they hold its cgroup.
func (s *Server) waitExecs(ctx context.Context, c *container) {
	s.mu.Lock()
	execs := append([]*execution(nil), c.execs...)
	s.mu.Unlock()
	for _, e := range execs {
		if e.proc != nil {
			e.proc.signal(unix.SIGKILL)
		}
		select {
		case <-e.exited:
		case <-ctx.Done():
			return
		}
	}
}

// adoptExecs takes over what an earlier shim started. How an ended one ended is unknown.
func (s *Server) adoptExecs(c *container) {
	entries, _ := os.ReadDir(s.layout.execs(c.spec.ID))
	for _, entry := range entries {
		path := s.layout.execs(c.spec.ID) + "/" + entry.Name()
		id, ok := strings.CutSuffix(entry.Name(), ".json")
		var rec execRecord
		if !ok || readJSON(path, &rec) != nil {
			os.Remove(path)
			continue
		}
		if err := writeJSON(path, rec); err != nil { // an earlier shim wrote more
			s.log.Warn("cannot rewrite the record of an exec", "container", c.spec.ID, "error", err)
		}
		e := &execution{id: id, exited: make(chan struct{})}
		proc, err := s.events.open(rec.PID, rec.StartTime)
		s.addExec(c, e)
		if err != nil {
			s.finishExec(c, e, ending{unknown: true})
			continue
		}
		e.proc = proc
		s.reaper.watch(proc.pid)
		s.watchExec(c, e)
	}
}
