package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"kontiki/bench/load"
	"kontiki/bench/report"
)

// versus makes a row of our figure and, if there is one, the peer's.
func versus(row report.Row, all []*server, value func(*server) (float64, string, error)) (report.Row, error) {
	for i, s := range all {
		v, detail, err := value(s)
		if err != nil {
			return row, err
		}
		if i == 0 {
			row.Value, row.Detail = v, detail
		} else {
			row.Peer = &report.Peer{Name: s.name, Value: v, Detail: detail}
		}
	}
	return row, nil
}

// measureStart starts servers again that have run before.
func measureStart(ctx context.Context, o options, all []*server, out *report.Report) error {
	row := report.Row{What: fmt.Sprintf("start of a node to its API being ready, median of %d", o.starts), Unit: "s", Target: "≤ 1.5 s"}
	row, err := versus(row, all, func(s *server) (float64, string, error) {
		var took []time.Duration
		for range o.starts {
			if err := s.restart(ctx); err != nil {
				return 0, "", err
			}
			began, err := s.started()
			if err != nil {
				return 0, "", err
			}
			if err := s.ready(ctx); err != nil {
				return 0, "", err
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		return took[len(took)/2].Seconds(), "", nil
	})
	if err != nil {
		return err
	}
	return out.Add(row)
}

// measureMemory looks at servers that have just started, before anybody uses them.
func measureMemory(ctx context.Context, o options, all []*server, out *report.Report) error {
	select {
	case <-time.After(o.settle):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return memoryRow(all, "idle", out)
}

func memoryRow(all []*server, when string, out *report.Report) error {
	row := report.Row{What: "resident memory of one whole node, " + when, Unit: "MB"}
	row, err := versus(row, all, func(s *server) (float64, string, error) {
		m, err := s.memory()
		return m.RSS, fmt.Sprintf("%.0f MB anonymous", m.Anonymous), err
	})
	if err != nil {
		return err
	}
	return out.Add(row)
}

// measurePods fills the servers with pods, and lists them.
func measurePods(ctx context.Context, o options, all []*server, out *report.Report) error {
	for _, s := range all {
		if err := s.fill(ctx, o.pods); err != nil {
			return err
		}
	}
	if err := memoryRow(all, fmt.Sprintf("with %d pods", o.pods), out); err != nil {
		return err
	}
	for _, e := range []encoding{protobuf, json} {
		row := report.Row{What: fmt.Sprintf("list of %d pods of 2 KiB, %s, median of %d", o.pods, e, o.lists), Unit: "ms"}
		row, err := versus(row, all, func(s *server) (float64, string, error) {
			var took []time.Duration
			before, err := s.CPU()
			if err != nil {
				return 0, "", err
			}
			for range o.lists {
				began := time.Now()
				list, err := s.clients[e][0].CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
				if err != nil {
					return 0, "", err
				}
				if len(list.Items) != o.pods {
					return 0, "", fmt.Errorf("%s lists %d pods, %d were created", s.name, len(list.Items), o.pods)
				}
				took = append(took, time.Since(began))
			}
			after, err := s.CPU()
			slices.Sort(took)
			return load.MS(took[len(took)/2]), fmt.Sprintf("CPU %d ms a list", (after-before).Milliseconds()/int64(o.lists)), err
		})
		if err != nil {
			return err
		}
		if err := out.Add(row); err != nil {
			return err
		}
	}
	return nil
}

// fill creates a number of pods.
func (s *server) fill(ctx context.Context, n int) error {
	var next atomic.Int64
	errs := make(chan error, 16)
	for w := range cap(errs) {
		go func() {
			c := s.clients[protobuf][w].CoreV1().Pods(namespace)
			for next.Add(1) <= int64(n) {
				if _, err := c.Create(ctx, newPod(newName()), metav1.CreateOptions{}); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	var err error
	for range cap(errs) {
		err = errors.Join(err, <-errs)
	}
	return err
}

// rate is a measurement of calls per second.
type rate struct {
	op       operation
	kind     kind
	encoding encoding
	clients  int
	target   string
}

func measureCreates(ctx context.Context, o options, all []*server, out *report.Report) error {
	var rates []rate
	for _, k := range []kind{configMaps, pods} {
		for _, e := range []encoding{protobuf, json} {
			for _, n := range []int{1, 16, maxClients} {
				rates = append(rates, rate{createOp, k, e, n, map[int]string{16: "≥ 2 ×"}[n]})
			}
		}
	}
	return measureRates(ctx, o, all, out, rates)
}

func measureGets(ctx context.Context, o options, all []*server, out *report.Report) error {
	return measureRates(ctx, o, all, out, []rate{
		{getOp, configMaps, protobuf, 1, ""},
		{getOp, configMaps, protobuf, 16, "≥ 1.5 ×"},
		{getOp, configMaps, protobuf, maxClients, ""},
		{getOp, pods, json, 16, "≥ 1.5 ×"},
	})
}

func measureRates(ctx context.Context, o options, all []*server, out *report.Report, rates []rate) error {
	for _, r := range rates {
		var contenders []load.Contender
		for _, s := range all {
			w := work{server: s, op: r.op, kind: r.kind, encoding: r.encoding}
			if r.op == getOp {
				var err error
				if w.existing, err = s.some(ctx, r.kind); err != nil {
					return err
				}
			}
			contenders = append(contenders, w)
		}
		scores, err := load.Contest(ctx, contenders, r.clients, o.each)
		if err != nil {
			return err
		}
		row := report.Row{
			What: fmt.Sprintf("%ss of a %s of 2 KiB, %s, %s, %s (p50 / p99)", r.op, r.kind, r.encoding, load.Count(r.clients, "client"), all[0].about()),
			Unit: "/s", Value: scores[0].PerSecond(), Detail: scores[0].Detail(string(r.op)), Target: r.target,
		}
		if len(all) > 1 {
			row.Peer = &report.Peer{Name: all[1].name, Value: scores[1].PerSecond(), Detail: scores[1].Detail(string(r.op))}
		}
		if err := out.Add(row); err != nil {
			return err
		}
	}
	return nil
}

// about tells one node from several.
func (s *server) about() string { return load.Count(len(s.endpoints), "node") }

// some are names of objects that are there.
func (s *server) some(ctx context.Context, k kind) (names []string, err error) {
	const many = 500
	core := s.clients[protobuf][0].CoreV1()
	if k == pods {
		list, err := core.Pods(namespace).List(ctx, metav1.ListOptions{Limit: many})
		if err != nil {
			return nil, err
		}
		for _, item := range list.Items {
			names = append(names, item.Name)
		}
		return names, nil
	}
	list, err := core.ConfigMaps(namespace).List(ctx, metav1.ListOptions{Limit: many})
	if err != nil {
		return nil, err
	}
	for _, item := range list.Items {
		names = append(names, item.Name)
	}
	return names, nil
}

// measureWatch writes on one node and watches on another, one write at a time.
func measureWatch(ctx context.Context, o options, s *server, out *report.Report) error {
	// Clients are spread over the nodes in turn: the second is on the second node.
	writer, watcher := s.clients[protobuf][0].CoreV1().ConfigMaps(namespace), s.clients[protobuf][1].CoreV1().ConfigMaps(namespace)
	list, err := watcher.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	w, err := watcher.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	var took []time.Duration
	for range o.events {
		name, began := newName(), time.Now()
		if _, err := writer.Create(ctx, newConfigMap(name), metav1.CreateOptions{}); err != nil {
			return err
		}
		for seen := false; !seen; {
			event, ok := <-w.ResultChan()
			if !ok || event.Type == watch.Error {
				return fmt.Errorf("the watch ended: %v", event.Object)
			}
			if o, ok := event.Object.(metav1.Object); ok {
				seen = o.GetName() == name
			}
		}
		took = append(took, time.Since(began))
	}
	l := load.Summarize(took, time.Second, 0)
	return out.Add(report.Row{
		What: "create on one node until a watch on another has it, p99", Value: load.MS(l.P99), Unit: "ms",
		Detail: fmt.Sprintf("p50 %s, answer included", load.InMS(l.P50)), Target: "≤ 50 ms",
	})
}
