package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// An exit is on disk (exits/ID.json) before anybody is told of it, and stays
// there until it was acknowledged; then it moves into the container's folder in
// one step, and goes with the container.

// watch waits for a container's first process in a goroutine. c.mu is held, c.proc set.
func (s *Server) watch(c *container) {
	proc := c.proc
	s.tasks.Go(func() {
		e, ok := proc.wait()
		if !ok {
			return // the server ends; the successor watches
		}
		oom := s.oomKilled(c, e) // at once: systemd removes a group when it is empty
		s.reaper.unwatch(proc.pid)
		s.finish(c, e, oom)
	})
}

// finish makes an exit known.
func (s *Server) finish(c *container, e ending, oom bool) {
	if s.neverRan(c, e) {
		e = ending{unknown: true}
	}
	if s.sharesPID(c) {
		if err := killCgroup(c.rec.Cgroup); err != nil { // what it left behind goes with it, as from a PID namespace of its own
			s.log.Warn("cannot end what an ended container left behind", "container", c.spec.ID, "error", err)
		}
	}
	exit := shim.Exit{ContainerID: c.spec.ID, SandboxID: c.spec.SandboxID, Labels: c.spec.Labels, Unknown: e.unknown, At: now()}
	exit.Code, exit.Signal = e.codeOf()
	exit.OOMKilled = oom
	if err := writeJSON(s.layout.exit(c.spec.ID), exit); err != nil {
		s.log.Error("cannot keep an exit on disk; it is lost if the shim ends", "container", c.spec.ID, "error", err)
	}
	s.publish(c, exit, true)
}

// publish sets the exit and, if it is news, puts it into the stream.
func (s *Server) publish(c *container, exit shim.Exit, news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.exit, c.pid = &exit, 0
	if news {
		s.seq++
		c.seq = s.seq
		close(s.changed)
		s.changed = make(chan struct{})
	}
	close(c.exited)
}

// oomKilled asks the kernel's own counters, which also know what happened while nobody watched. Where
// systemd was faster and has removed the container's, its pod's slice tells: on cgroup v2, the only one that
// systemd is asked for, a group counts all that is below it.
func (s *Server) oomKilled(c *container, e ending) bool {
	own, there := oomKills(c.rec.Cgroup)
	if !bySystemd(c.rec.Cgroup) {
		return own > 0
	}
	all, _ := oomKills(path.Dir(c.rec.Cgroup))
	s.mu.Lock()
	defer s.mu.Unlock()
	sb := s.sandboxes[c.spec.SandboxID]
	if sb == nil {
		return own > 0
	}
	news := all > sb.oomKills
	if there {
		sb.oomKills = min(sb.oomKills+own, all) // some may have been counted with another's end
		return own > 0
	}
	sb.oomKills = all
	return news && !e.unknown && e.status.Signaled() && e.status.Signal() == unix.SIGKILL
}

// oomKills is a group's count of processes that the OOM killer ended; there is false if the group is
// gone, with a reboot for example.
func oomKills(group string) (n uint64, there bool) {
	m, err := cgroupAt(group, &cgroups.Resources{})
	if err != nil {
		return 0, false
	}
	n, err = m.OOMKillCount()
	return n, err == nil
}

// waitForExits returns the exits after cursor as soon as there is one.
func (s *Server) waitForExits(ctx context.Context, cursor shim.Cursor) (shim.ExitsBody, error) {
	if cursor.Instance != s.instance {
		cursor = shim.Cursor{Instance: s.instance}
	}
	for {
		s.mu.Lock()
		found := s.exitsAfterLocked(cursor.Seq)
		changed := s.changed
		s.mu.Unlock()
		if len(found) > 0 {
			out := shim.ExitsBody{Cursor: cursor}
			for _, c := range found {
				out.Exits = append(out.Exits, *c.exit)
				out.Cursor.Seq = c.seq
			}
			return out, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return shim.ExitsBody{}, ctx.Err()
		}
	}
}

func (s *Server) exitsAfterLocked(seq uint64) []*container {
	var found []*container
	for _, c := range s.containers {
		if c.exit != nil && c.seq > seq {
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b *container) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	return found
}

func (s *Server) acknowledge(ids []string) error {
	for _, id := range ids {
		c, err := s.find(id)
		if errors.Is(err, shim.ErrNotFound) {
			continue // deleted, and its exit with it
		}
		if err != nil {
			return err
		}
		err = s.acknowledgeOne(c)
		c.mu.Unlock()
		if err != nil {
			return fmt.Errorf("acknowledge the exit of %s: %w", id, err)
		}
	}
	return nil
}

func (s *Server) acknowledgeOne(c *container) error {
	s.mu.Lock()
	has := c.exit != nil
	s.mu.Unlock()
	if !has {
		return fmt.Errorf("it has not exited: %w", shim.ErrInvalid)
	}
	err := os.Rename(s.layout.exit(c.spec.ID), s.layout.keptExit(c.spec.ID))
	if err != nil && !errors.Is(err, os.ErrNotExist) { // absent: acknowledged before
		return err
	}
	s.mu.Lock()
	c.seq = 0
	s.mu.Unlock()
	return nil
}

// knownExit finds the exit that an earlier shim wrote down.
func (s *Server) knownExit(id string) (exit shim.Exit, acknowledged, ok bool) {
	if readJSON(s.layout.exit(id), &exit) == nil {
		return exit, false, true
	}
	if readJSON(s.layout.keptExit(id), &exit) == nil {
		return exit, true, true
	}
	return shim.Exit{}, false, false
}

// clearStrayExits removes exits whose container is gone, and half-written files.
func (s *Server) clearStrayExits() error {
	entries, err := os.ReadDir(s.layout.exits())
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, isExit := strings.CutSuffix(e.Name(), ".json")
		if isExit && s.containers[id] != nil {
			continue
		}
		if err := os.Remove(s.layout.exits() + "/" + e.Name()); err != nil {
			return err
		}
	}
	return nil
}
