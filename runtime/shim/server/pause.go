package server

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"kontiki/runtime/shim"
)

// A PID namespace lives as long as its first process. One that all containers of
// a pod share therefore needs a process of its own, a container like any other: an
// empty root with this program in it, which is executed as "pause".

// pauseOOMScore is upstream's: it is killed after everything else in the pod.
const pauseOOMScore = -998

func (s *Server) pauseRoot(id string) string { return filepath.Join(s.layout.container(id), "root") }

// preparePause makes the root of a pause container.
func (s *Server) preparePause(id string) error {
	root := s.pauseRoot(id)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(root, "pause"), os.O_CREATE|os.O_RDONLY, 0o755)
	if err != nil {
		return err
	}
	return f.Close()
}

// ensurePause starts the process that holds a sandbox's PID namespace, unless it runs.
func (s *Server) ensurePause(ctx context.Context, sb *sandbox) error {
	id := shim.PauseID(sb.ID)
	for range attemptsOfPause {
		s.mu.Lock()
		c := s.containers[id]
		runs := c != nil && c.exit == nil && !c.started.IsZero()
		s.mu.Unlock()
		if runs {
			return nil
		}
		if err := s.deleteContainer(ctx, id); err != nil {
			return err
		}
		spec := shim.ContainerSpec{
			ID: id, SandboxID: sb.ID, Args: []string{"/pause", "pause"}, Rootfs: s.pauseRoot(id), ReadonlyRootfs: true,
			Mounts:          []shim.Mount{{Type: shim.MountBind, Source: s.program, Destination: "/pause", ReadOnly: true}},
			NoNewPrivileges: true, MaskedPaths: shim.DefaultMaskedPaths(), ReadonlyPaths: shim.DefaultReadonlyPaths(), OOMScoreAdj: pauseOOMScore, Labels: sb.Labels,
		}
		if _, err := s.create(ctx, spec); err != nil {
			return fmt.Errorf("make the process that holds the PID namespace of sandbox %s: %w", sb.ID, err)
		}
		if _, err := s.start(ctx, id); err != nil {
			return err
		}
	}
	return fmt.Errorf("the process that holds the PID namespace of sandbox %s does not stay: %w", sb.ID, shim.ErrNotRunning)
}

// attemptsOfPause: the first start, and a look whether it has lasted.
const attemptsOfPause = 2

// pidNamespace is the path of the PID namespace that a container joins, empty: it gets its own.
func (s *Server) pidNamespace(spec *shim.ContainerSpec, sb *sandbox) (string, error) {
	owner := spec.JoinPID
	if sb.SharePID && spec.ID != shim.PauseID(sb.ID) {
		owner = shim.PauseID(sb.ID)
	}
	if owner == "" || spec.HostPID {
		return "", nil
	}
	s.mu.Lock()
	pid := 0
	if c := s.containers[owner]; c != nil && c.spec.SandboxID == sb.ID {
		pid = c.pid
	}
	s.mu.Unlock()
	path := filepath.Join("/proc", strconv.Itoa(pid), "ns", "pid")
	if _, err := os.Lstat(path); pid == 0 || err != nil { // it may be about to end
		return "", fmt.Errorf("container %s, whose processes are to be shared: %w", owner, shim.ErrNotRunning)
	}
	return path, nil
}

// sharesPID: its other processes do not die with its first.
func (s *Server) sharesPID(c *container) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb := s.sandboxes[c.spec.SandboxID]
	return c.spec.HostPID || c.spec.JoinPID != "" || sb != nil && sb.SharePID && c.spec.ID != shim.PauseID(sb.ID)
}
