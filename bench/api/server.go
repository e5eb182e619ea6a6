package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"kontiki/bench/lab"
	"kontiki/bench/peer"
	"kontiki/bench/proc"
)

// namespace is where everything is created.
const namespace = "bench"

// server is an API under measurement.
type server struct {
	name      string // in the table
	endpoints []*rest.Config
	processes func() ([]int, error)
	restart   func(context.Context) error // stops the server, and starts it without waiting
	stop      func() error                // ends it and removes all that it made
	clients   map[encoding][]kubernetes.Interface
}

// startKontiki makes a lab of some nodes. Their clients sit on all of them.
func startKontiki(ctx context.Context, bin string, nodes int) (*server, error) {
	l, err := lab.New(bin, fmt.Sprintf("bench%d", nodes))
	if err != nil {
		return nil, err
	}
	s := &server{name: "kontiki", stop: l.Down}
	if nodes > 1 {
		s.name = fmt.Sprintf("kontiki, %d nodes", nodes)
	}
	if _, err := l.Up(ctx, nodes); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	var hosts []string
	for i := range nodes {
		hosts = append(hosts, fmt.Sprintf("n%d", i+1))
		config, err := l.Client(ctx, hosts[i])
		if err != nil {
			return nil, errors.Join(err, s.stop())
		}
		s.endpoints = append(s.endpoints, config)
	}
	s.processes = func() (pids []int, err error) {
		for _, host := range hosts {
			some, err := l.Processes(host)
			if err != nil {
				return nil, err
			}
			pids = append(pids, some...)
		}
		return pids, nil
	}
	s.restart = func(ctx context.Context) error {
		return errors.Join(l.Stop(ctx, hosts[0]), l.Start(ctx, hosts[0]))
	}
	return s.prepared(ctx)
}

// startUpstream starts kube-apiserver above one etcd on loopback.
func startUpstream(ctx context.Context, bin string) (*server, error) {
	p, err := peer.StartControlPlane(ctx, bin)
	if err != nil {
		return nil, err
	}
	s := &server{
		name: peer.ControlPlaneName, endpoints: []*rest.Config{p.Config}, stop: p.Close,
		processes: func() ([]int, error) { return p.Processes(), nil },
		restart:   func(context.Context) error { return p.Restart() },
	}
	return s.prepared(ctx)
}

// prepared waits until the server is ready and makes the namespace, with the
// account that its pods have; upstream's would come from its controllers.
func (s *server) prepared(ctx context.Context) (*server, error) {
	err := s.ready(ctx)
	for _, e := range []encoding{protobuf, json} {
		if err == nil {
			err = s.connect(e, maxClients)
		}
	}
	if err == nil {
		c := s.clients[protobuf][0].CoreV1()
		_, err = c.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
		if err == nil {
			account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: namespace}}
			if _, err = c.ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
				err = nil
			}
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", s.name, err), s.stop())
	}
	return s, nil
}

// ready waits until the first endpoint says that it is.
func (s *server) ready(ctx context.Context) error { return peer.Ready(ctx, s.name, s.endpoints[0]) }

// started is when the youngest of the server's processes was: the node, or
// kube-apiserver, that restart has started.
func (s *server) started() (latest time.Time, err error) {
	pids, err := s.processes()
	for _, pid := range pids {
		at, perr := proc.Started(pid)
		if perr != nil {
			return latest, perr
		}
		if at.After(latest) {
			latest = at
		}
	}
	return latest, err
}

// CPU is the CPU time of the server's processes; clients are this process.
func (s *server) CPU() (sum time.Duration, err error) {
	pids, err := s.processes()
	for _, pid := range pids {
		used, perr := proc.CPU(pid)
		sum, err = sum+used, errors.Join(err, perr)
	}
	return sum, err
}

func (s *server) memory() (sum proc.Use, err error) {
	pids, err := s.processes()
	for _, pid := range pids {
		used, perr := proc.Memory(pid)
		sum, err = sum.Add(used), errors.Join(err, perr)
	}
	return sum, err
}
