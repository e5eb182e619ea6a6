package server

import (
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
)

// adopt takes over what an earlier shim left: after its crash, after it executed
// this program in its place (the containers are then still children), or after
// a reboot (there are only files then). Garbage of unfinished work is cleared away.
func (s *Server) adopt(h handover) error {
	for _, dir := range []string{s.layout.sandboxes(), s.layout.containers(), s.layout.exits(), s.layout.libcontainer()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	if err := s.adoptSandboxes(); err != nil {
		return err
	}
	ids, err := names(s.layout.containers())
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := s.adoptContainer(id, h); err != nil {
			// One that cannot be read must not keep all others from being served.
			s.log.Error("cannot adopt a container; its files stay", "container", id, "error", err)
		}
	}
	return s.clearStrayExits()
}

func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}

func (s *Server) adoptSandboxes() error {
	ids, err := names(s.layout.sandboxes())
	if err != nil {
		return err
	}
	for _, id := range ids {
		sb := &sandbox{dir: s.layout.sandbox(id)}
		err := readJSON(sb.record(), &sb.Sandbox)
		if err == nil {
			sb.cgroup, err = s.groupOfAdopted(sb)
		}
		if err != nil || sb.ID != id {
			// Unfinished, or its removal was: containers in it are found to be unwanted below.
			if err := sb.takeDown(); err != nil {
				s.log.Error("cannot clear away an unfinished sandbox", "sandbox", id, "error", err)
			}
			continue
		}
		if bySystemd(sb.cgroup) { // what was counted so far was told, or nobody will know
			sb.oomKills, _ = oomKills(sb.cgroup)
		}
		s.sandboxes[id] = sb
	}
	return nil
}

// groupOfAdopted is the pod's group where it is, which may be where another driver has made it.
func (s *Server) groupOfAdopted(sb *sandbox) (string, error) {
	group, err := s.tree.pod(sb.QOS, sb.PodUID)
	if err != nil || !s.tree.systemd {
		return group, err
	}
	old, err := tree{root: s.tree.root}.pod(sb.QOS, sb.PodUID)
	if err != nil {
		return "", err
	}
	m, err := cgroupAt(old, &cgroups.Resources{})
	if err != nil || !thereIs(m) {
		return group, err
	}
	return old, nil
}

func (s *Server) adoptContainer(id string, h handover) error {
	var rec record
	err := readJSON(s.layout.record(id), &rec)
	if errors.Is(err, os.ErrNotExist) {
		// The folder is made before the record, the cgroup after it: there is nothing else.
		return os.RemoveAll(s.layout.container(id))
	}
	if err != nil {
		return err
	}
	if rec.Spec.ID != id {
		return fmt.Errorf("its record is of %q", rec.Spec.ID)
	}
	if !rec.Complete || rec.Deleting {
		return s.purge(rec)
	}
	c := newContainer(withoutSecrets(rec.Spec))
	c.rec, c.started, c.adopted = rec, rec.Started, true
	if c.rec.Spec = c.spec; rec.Spec.Args != nil { // of a shim that wrote them down
		if err := s.save(c); err != nil {
			return err
		}
	}
	s.containers[id] = c
	c.io.console = h.consoles[id]
	s.reopenStdio(c)
	if exit, acknowledged, ok := s.knownExit(id); ok {
		s.publish(c, exit, !acknowledged)
		return nil
	}
	if err := s.adoptProcess(c); err != nil {
		s.log.Info("a container ended while no shim watched", "container", id, "reason", err)
		s.finish(c, ending{unknown: true}, s.oomKilled(c, ending{unknown: true}))
		return nil
	}
	s.adoptExecs(c)
	return nil
}

// adoptProcess finds the first process again and watches it.
func (s *Server) adoptProcess(c *container) error {
	if c.rec.Boot != s.boot {
		return errors.New("the machine was rebooted")
	}
	lc, err := libcontainer.Load(s.layout.libcontainer(), c.spec.ID)
	if err != nil {
		return err
	}
	c.lc = lc
	state, err := lc.State()
	if err != nil {
		return err
	}
	proc, err := s.events.open(state.InitProcessPid, state.InitProcessStartTime)
	if err != nil {
		return err
	}
	c.proc, c.pid = proc, proc.pid
	if err := s.noteBegin(c); err != nil {
		return err
	}
	s.reaper.watch(proc.pid)
	s.watch(c)
	return nil
}
