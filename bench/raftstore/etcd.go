package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"kontiki/bench/proc"
)

// installEtcd gets Debian's package, without starting its service.
func installEtcd(ctx context.Context) error {
	if _, err := exec.LookPath("etcd"); err == nil {
		return nil
	}
	if os.Getuid() != 0 {
		return errors.New("etcd is missing: install the package etcd-server, or run with -peer=false")
	}
	for _, args := range [][]string{{"update", "-q"}, {"install", "-y", "-q", "--no-install-recommends", "etcd-server"}} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// etcd is three processes of it, with a connection of its own client to each.
type etcd struct {
	procs   []*exec.Cmd
	clients []*clientv3.Client
}

func newEtcd(ctx context.Context, dir string) (*etcd, error) {
	if err := installEtcd(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := writeCertificate(dir); err != nil {
		return nil, err
	}
	cert, err := readCertificate(dir)
	if err != nil {
		return nil, err
	}
	e := &etcd{}
	endpoints, procs, err := startEtcd(dir)
	e.procs = procs
	for i := range endpoints {
		var c *clientv3.Client
		if err == nil {
			c, err = clientv3.New(clientv3.Config{Endpoints: endpoints[i : i+1], TLS: cert, DialTimeout: patience, Logger: zap.NewNop()})
		}
		if err == nil {
			e.clients = append(e.clients, c)
		}
	}
	if err == nil {
		err = wait(ctx, "etcd to have a leader", func() (bool, error) {
			for w := range e.clients {
				if e.put(ctx, w, 0) != nil {
					return false, nil
				}
			}
			return true, nil
		})
	}
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *etcd) put(ctx context.Context, w, n int) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, err := e.clients[w%len(e.clients)].Put(ctx, fmt.Sprintf("w/%d/%d", w, n%1000), string(make([]byte, valueSize)))
	return err
}

// memory is the resident memory of the largest of them, in MB.
func (e *etcd) memory() (float64, error) {
	largest := 0.0
	for _, p := range e.procs {
		m, err := proc.Memory(p.Process.Pid)
		if err != nil {
			return 0, err
		}
		largest = max(largest, m.RSS)
	}
	return largest, nil
}

// cpu is the CPU time of all of them and of this process, which holds the clients.
func (e *etcd) cpu() (time.Duration, error) {
	sum, err := proc.CPU(os.Getpid())
	for _, p := range e.procs {
		used, perr := proc.CPU(p.Process.Pid)
		sum, err = sum+used, errors.Join(err, perr)
	}
	return sum, err
}

func (e *etcd) close() {
	for _, c := range e.clients {
		_ = c.Close()
	}
	for _, p := range e.procs {
		_ = p.Process.Kill()
		_ = p.Wait() // says that it was killed
	}
}

func startEtcd(dir string) (endpoints []string, procs []*exec.Cmd, err error) {
	var initial, peers []string
	for _, id := range ids {
		client, err := freeAddress()
		if err != nil {
			return nil, nil, err
		}
		peer, err := freeAddress()
		if err != nil {
			return nil, nil, err
		}
		endpoints = append(endpoints, "https://"+client)
		peers = append(peers, "https://"+peer)
		initial = append(initial, id+"=https://"+peer)
	}
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	log, err := os.Create(filepath.Join(dir, "etcd.log"))
	if err != nil {
		return nil, nil, err
	}
	defer log.Close() // the processes have their own copy
	for i, id := range ids {
		cmd := exec.Command("etcd", "--name", id, "--data-dir", filepath.Join(dir, "etcd-"+id),
			"--listen-client-urls", endpoints[i], "--advertise-client-urls", endpoints[i],
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new",
			"--cert-file", cert, "--key-file", key, "--trusted-ca-file", cert, "--client-cert-auth",
			"--peer-cert-file", cert, "--peer-key-file", key, "--peer-trusted-ca-file", cert, "--peer-client-cert-auth",
			"--logger", "zap", "--log-level", "error")
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return nil, procs, err
		}
		procs = append(procs, cmd)
	}
	return endpoints, procs, nil
}
