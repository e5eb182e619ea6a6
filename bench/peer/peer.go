// Package peer starts what a user would take instead: Debian's etcd-server, containerd and podman, and
// upstream's kube-apiserver as bench/peers builds it. Each Process is used by one
// goroutine. Only the bench imports it.
package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"kontiki/bench/cert"
)

// Process is a running peer.
type Process struct{ cmd *exec.Cmd }

// Start starts a program whose output goes to a file. It dies with this process.
func Start(log, program string, args ...string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the process has its own copy
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = f, f
	// Not in the terminal's process group: an interrupt is for the bench, which ends it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &Process{cmd}, nil
}

// Pid is its process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Kill ends it, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // says that it was killed
}

// FreeAddress is one on loopback that nobody listens on now.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// InstallEtcd gets Debian's package, without starting its service.
func InstallEtcd(ctx context.Context) error { return install(ctx, "etcd", "etcd-server") }

// install gets packages of Debian when a program of theirs is missing.
func install(ctx context.Context, program string, packages ...string) error {
	if _, err := exec.LookPath(program); err == nil {
		return nil
	}
	if os.Getuid() != 0 {
		return fmt.Errorf("%s is missing: install %s, or run with -peer=false", program, strings.Join(packages, " "))
	}
	for _, args := range [][]string{{"update", "-q"}, append([]string{"install", "-y", "-q", "--no-install-recommends"}, packages...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// Etcd are members of one etcd cluster, each a process.
type Etcd struct {
	Endpoints []string
	Processes []*Process
}

// StartEtcd starts members by the names given, with TLS by the certificate in dir.
// The caller closes it, also after an error.
func StartEtcd(dir string, names ...string) (*Etcd, error) {
	e := &Etcd{}
	var peers, initial []string
	for _, name := range names {
		for _, list := range []*[]string{&e.Endpoints, &peers} {
			address, err := FreeAddress()
			if err != nil {
				return e, err
			}
			*list = append(*list, "https://"+address)
		}
		initial = append(initial, name+"="+peers[len(peers)-1])
	}
	file, key := cert.File(dir), cert.Key(dir)
	for i, name := range names {
		p, err := Start(filepath.Join(dir, "etcd.log"), "etcd", "--name", name, "--data-dir", filepath.Join(dir, "etcd-"+name),
			"--listen-client-urls", e.Endpoints[i], "--advertise-client-urls", e.Endpoints[i],
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new",
			"--cert-file", file, "--key-file", key, "--trusted-ca-file", file, "--client-cert-auth",
			"--peer-cert-file", file, "--peer-key-file", key, "--peer-trusted-ca-file", file, "--peer-client-cert-auth",
			"--logger", "zap", "--log-level", "error")
		if err != nil {
			return e, err
		}
		e.Processes = append(e.Processes, p)
	}
	return e, nil
}

// Close ends all members.
func (e *Etcd) Close() {
	for _, p := range e.Processes {
		p.Kill()
	}
}

// Patience bounds every wait of the bench for something to come up.
const Patience = time.Minute

// Wait looks until done says so, and tells at last what it waited for.
func Wait(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("waited %v for %s", Patience, what)
			}
			return context.Cause(ctx)
		}
	}
}
