package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"kontiki/bench/cert"
	"kontiki/bench/peer"
	"kontiki/bench/proc"
	"kontiki/raftstore"
)

// group is three replicas, each a process.
type group struct {
	dir, profile string
	log          raftstore.LogStore
	procs        map[string]*process // by node id; nil while one is killed
}

// process is one replica as the parent sees it.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Reader
}

var ids = []string{"a", "b", "c"}

func newGroup(dir, profile string, log raftstore.LogStore) (*group, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := cert.Write(dir); err != nil {
		return nil, err
	}
	peers := map[string]map[string]string{"raft": {}, "call": {}}
	for _, id := range ids {
		for _, addresses := range peers {
			var err error
			if addresses[id], err = peer.FreeAddress(); err != nil {
				return nil, err
			}
		}
	}
	b, err := json.Marshal(peers)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "peers.json"), b, 0o600); err != nil {
		return nil, err
	}
	g := &group{dir: dir, profile: profile, log: log, procs: make(map[string]*process)}
	for _, id := range ids {
		if err := g.start(id); err != nil {
			return nil, errors.Join(err, g.close())
		}
	}
	return g, nil
}

func (g *group) start(id string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-replica", id, "-dir", g.dir, "-profile", g.profile, "-log", string(g.log))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	g.procs[id] = &process{cmd, in, bufio.NewReader(out)}
	return nil
}

// kill ends a replica as a power cut would.
func (g *group) kill(id string) error {
	p := g.procs[id]
	g.procs[id] = nil
	err := p.cmd.Process.Kill()
	_ = p.cmd.Wait() // says that it was killed
	return err
}

// stop ends a replica in good order.
func (g *group) stop(id string) error {
	p := g.procs[id]
	g.procs[id] = nil
	return errors.Join(p.in.Close(), p.cmd.Wait())
}

func (g *group) close() error {
	var err error
	for _, id := range ids {
		if g.procs[id] != nil {
			err = errors.Join(err, g.stop(id))
		}
	}
	return err
}

func (g *group) tell(id string, o order) (answer, error) {
	var a answer
	p := g.procs[id]
	b, err := json.Marshal(o)
	if err != nil {
		return a, err
	}
	if _, err := p.in.Write(append(b, '\n')); err != nil {
		return a, fmt.Errorf("replica %s: %w", id, err)
	}
	line, err := p.lines.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return a, fmt.Errorf("replica %s, %s: %w", id, o.Do, err)
	}
	return a, nil
}

// CPU is the CPU time that all replicas have used.
func (g *group) CPU() (time.Duration, error) {
	var sum time.Duration
	for _, id := range g.running() {
		used, err := proc.CPU(g.procs[id].cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// running are the replicas that are up.
func (g *group) running() []string {
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return g.procs[id] == nil })
}

// leader waits until all running replicas agree on a leader among them and have
// the same revision as each other or go on.
func (g *group) leader(ctx context.Context) (id string, term uint64, err error) {
	err = peer.Wait(ctx, "a leader", func() (bool, error) {
		id, term = "", 0
		for _, r := range g.running() {
			a, err := g.tell(r, order{Do: "status"})
			if err != nil {
				return false, err
			}
			if a.Leader == "" || g.procs[a.Leader] == nil || id != "" && (a.Leader != id || a.Term != term) {
				return false, nil
			}
			id, term = a.Leader, a.Term
		}
		return true, nil
	})
	return id, term, err
}

// follower is a running replica that does not lead.
func (g *group) follower(leader string) string {
	return ids[(slices.Index(ids, leader)+1)%len(ids)]
}
