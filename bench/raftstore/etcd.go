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

// measureEtcd runs three etcd processes and the same load with etcd's own client.
func measureEtcd(ctx context.Context, o options, writers []int, length time.Duration) (_ map[int]latencies, memory string, err error) {
	if err := installEtcd(ctx); err != nil {
		return nil, "", err
	}
	endpoints, procs, err := startEtcd(o.dir)
	defer func() {
		for _, p := range procs {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
	}()
	if err != nil {
		return nil, "", err
	}
	cert, err := readCertificate(o.dir)
	if err != nil {
		return nil, "", err
	}
	var clients []*clientv3.Client
	for i := range endpoints { // one connection to each member
		c, err := clientv3.New(clientv3.Config{Endpoints: endpoints[i : i+1], TLS: cert, DialTimeout: patience, Logger: zap.NewNop()})
		if err != nil {
			return nil, "", err
		}
		defer c.Close()
		clients = append(clients, c)
	}
	value := string(make([]byte, valueSize))
	put := func(ctx context.Context, w, n int) error {
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		_, err := clients[w%len(clients)].Put(ctx, fmt.Sprintf("w/%d/%d", w, n%1000), value)
		return err
	}
	if err := wait(ctx, "etcd to have a leader", func() (bool, error) {
		for w := range clients {
			if put(ctx, w, 0) != nil {
				return false, nil
			}
		}
		return true, nil
	}); err != nil {
		return nil, "", err
	}
	out := make(map[int]latencies)
	for _, n := range writers {
		out[n] = drive(ctx, n, length, put)
	}
	largest := 0
	for _, p := range procs {
		kib, err := rss(fmt.Sprint(p.Process.Pid))
		if err != nil {
			return nil, "", err
		}
		largest = max(largest, kib)
	}
	return out, fmt.Sprintf("%d MiB", largest/1024), nil
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
