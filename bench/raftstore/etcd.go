package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"kontiki/bench/cert"
	"kontiki/bench/peer"
	"kontiki/bench/proc"
)

// etcd is three processes of it, with a connection of its own client to each.
type etcd struct {
	*peer.Etcd
	clients []*clientv3.Client
}

func newEtcd(ctx context.Context, dir string) (*etcd, error) {
	if err := peer.InstallEtcd(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := cert.Write(dir); err != nil {
		return nil, err
	}
	tls, err := cert.Read(dir)
	if err != nil {
		return nil, err
	}
	e := &etcd{}
	e.Etcd, err = peer.StartEtcd(dir, ids...)
	for i := range e.Endpoints {
		var c *clientv3.Client
		if err == nil {
			c, err = clientv3.New(clientv3.Config{Endpoints: e.Endpoints[i : i+1], TLS: tls, DialTimeout: peer.Patience, Logger: zap.NewNop()})
		}
		if err == nil {
			e.clients = append(e.clients, c)
		}
	}
	if err == nil {
		err = peer.Wait(ctx, "etcd to have a leader", func() (bool, error) {
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
	for _, p := range e.Processes {
		m, err := proc.Memory(p.Pid())
		if err != nil {
			return 0, err
		}
		largest = max(largest, m.RSS)
	}
	return largest, nil
}

// CPU is the CPU time of all of them and of this process, which holds the clients.
func (e *etcd) CPU() (time.Duration, error) {
	sum, err := proc.CPU(os.Getpid())
	for _, p := range e.Processes {
		used, perr := proc.CPU(p.Pid())
		sum, err = sum+used, errors.Join(err, perr)
	}
	return sum, err
}

func (e *etcd) close() {
	for _, c := range e.clients {
		_ = c.Close()
	}
	e.Close()
}
