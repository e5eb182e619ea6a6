package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/bench/load"
	"kontiki/bench/peer"
	"kontiki/bench/proc"
	"kontiki/bench/report"
	"kontiki/bench/section"
)

// bench measures the node beside the engines.
type bench struct {
	extent
	out     *report.Report
	node    *node
	engines []*peer.Engine
	fresh   proc.Use // of the node before it had pods
}

// rows adds a row, and again for each further peer: a row has one.
func (b *bench) rows(row report.Row, peers []report.Peer) error {
	if len(peers) == 0 {
		return b.out.Add(row)
	}
	for i := range peers {
		row.Peer = &peers[i]
		if err := b.out.Add(row); err != nil {
			return err
		}
		row.Target = "" // judged once
	}
	return nil
}

// oneAfterTheOther starts pods and containers in turns, when nothing else happens.
func (b *bench) oneAfterTheOther(ctx context.Context) error {
	if err := section.Pause(ctx, b.settle); err != nil {
		return err
	}
	var err error
	if b.fresh, _, err = b.node.memory(); err != nil {
		return err
	}
	var pods []time.Duration
	others := make([][]time.Duration, len(b.engines))
	for i := range b.single {
		name := fmt.Sprintf("single-%d", i)
		b.node.pods.forget()
		if err := b.node.create(ctx, name); err != nil {
			return err
		}
		took, _, err := b.node.pods.wait(ctx, 1)
		if err != nil {
			return err
		}
		pods = append(pods, took...)
		if err := b.node.clear(ctx); err != nil {
			return err
		}
		for k, e := range b.engines {
			began := time.Now()
			if err := e.Run(ctx, name); err != nil {
				return err
			}
			others[k] = append(others[k], time.Since(began))
			if err := e.Remove(ctx, name); err != nil {
				return err
			}
		}
	}
	all := load.Summarize(pods, 0, 0)
	var p50, p99 []report.Peer
	for k, e := range b.engines {
		l := load.Summarize(others[k], 0, 0)
		p50 = append(p50, report.Peer{Name: e.Name + " run", Value: load.MS(l.P50)})
		p99 = append(p99, report.Peer{Name: e.Name + " run", Value: load.MS(l.P99)})
	}
	what := fmt.Sprintf("pod seen bound, until seen Running by a client, one at a time, of %d: ", b.single)
	return errors.Join(
		b.rows(report.Row{What: what + "median", Value: load.MS(all.P50), Unit: "ms", Target: "≤ 60 ms"}, p50),
		b.rows(report.Row{What: what + "p99", Value: load.MS(all.P99), Unit: "ms", Target: "≤ 250 ms", Detail: "worst " + load.InMS(all.Max)}, p99))
}

// clients is how many start containers beside each other.
const clients = 8

// atOnce starts many pods at once, from the first request to the last that is seen Running.
func (b *bench) atOnce(ctx context.Context) error {
	var rates []float64
	others := make([][]float64, len(b.engines))
	var each []time.Duration
	for round := range b.bursts {
		name := func(i int) string { return fmt.Sprintf("burst-%d-%d", round, i) }
		b.node.pods.forget()
		began := time.Now()
		if err := beside(ctx, b.burst, func(ctx context.Context, i int) error { return b.node.create(ctx, name(i)) }); err != nil {
			return err
		}
		took, last, err := b.node.pods.wait(ctx, b.burst)
		if err != nil {
			return err
		}
		rates, each = append(rates, float64(b.burst)/last.Sub(began).Seconds()), append(each, took...)
		if err := b.node.clear(ctx); err != nil {
			return err
		}
		for k, e := range b.engines {
			began := time.Now()
			if err := beside(ctx, b.burst, func(ctx context.Context, i int) error { return e.Run(ctx, name(i)) }); err != nil {
				return err
			}
			others[k] = append(others[k], float64(b.burst)/time.Since(began).Seconds())
			if err := beside(ctx, b.burst, func(ctx context.Context, i int) error { return e.Remove(ctx, name(i)) }); err != nil {
				return err
			}
		}
	}
	var peers []report.Peer
	for k, e := range b.engines {
		peers = append(peers, report.Peer{Name: e.Name + " run", Value: median(others[k]), Detail: fmt.Sprintf("%d beside each other", clients)})
	}
	l := load.Summarize(each, 0, 0)
	return b.rows(report.Row{
		What: fmt.Sprintf("pods of one container started, %d at once, median of %d", b.burst, b.bursts), Value: median(rates), Unit: "/s", Target: "≥ 40 /s",
		Detail: fmt.Sprintf("bound to Running %s / %s ms", load.InMS(l.P50), load.InMS(l.P99)),
	}, peers)
}

// besideEachOther has many pods on the node, and looks at what it costs to have them.
func (b *bench) besideEachOther(ctx context.Context) error {
	b.node.pods.forget()
	_, before, err := b.node.memory()
	if err != nil {
		return err
	}
	err = beside(ctx, b.crowd, func(ctx context.Context, i int) error { return b.node.create(ctx, fmt.Sprintf("crowd-%d", i)) })
	if err != nil {
		return err
	}
	if _, _, err := b.node.pods.wait(ctx, b.crowd); err != nil {
		return err
	}
	if err := section.Pause(ctx, b.settle); err != nil {
		return err
	}
	run, err := b.node.healthy(ctx) // after they have been beside each other for a while
	if err != nil {
		return err
	}
	now, own, err := b.node.memory()
	if err != nil {
		return err
	}
	_, inPods, err := b.node.lab.Apart(host)
	if err != nil {
		return err
	}
	memory, processes, err := b.engineCosts(ctx)
	if err != nil {
		return err
	}
	n := float64(b.crowd)
	return errors.Join(
		b.out.Add(report.Row{What: "pods that run beside each other on a node", Value: float64(run), Unit: "pods", Target: fmt.Sprintf("= %d pods", b.crowd)}),
		b.rows(report.Row{What: "resident memory a pod beyond its own processes", Value: (now.RSS - b.fresh.RSS) / n, Unit: "MB", Target: "< 1 MB",
			Detail: fmt.Sprintf("a fresh node %.0f MB, with %d pods %.0f MB; of it anonymous %.0f and %.0f", b.fresh.RSS, b.crowd, now.RSS, b.fresh.Anonymous, now.Anonymous)}, memory),
		b.rows(report.Row{What: "processes a pod beyond its own", Value: float64(own-before+len(inPods)-b.crowd) / n, Unit: "processes", Target: "= 0 processes"}, processes),
		b.node.clear(ctx))
}

// engineCosts is what a container costs the engines.
func (b *bench) engineCosts(ctx context.Context) (memory, processes []report.Peer, err error) {
	for _, e := range b.engines {
		look := func() (float64, int, error) {
			pids, err := e.Own()
			if err != nil {
				return 0, 0, err
			}
			u, err := memoryOf(pids)
			return u.RSS, len(pids), err
		}
		before, few, err := look()
		if err != nil {
			return nil, nil, err
		}
		name := func(i int) string { return fmt.Sprintf("crowd-%d", i) }
		if err := beside(ctx, b.few, func(ctx context.Context, i int) error { return e.Run(ctx, name(i)) }); err != nil {
			return nil, nil, err
		}
		now, many, err := look()
		if err != nil {
			return nil, nil, err
		}
		if err := beside(ctx, b.few, func(ctx context.Context, i int) error { return e.Remove(ctx, name(i)) }); err != nil {
			return nil, nil, err
		}
		n, detail := float64(b.few), fmt.Sprintf("of %d", b.few)
		memory = append(memory, report.Peer{Name: e.Name, Value: (now - before) / n, Detail: detail})
		processes = append(processes, report.Peer{Name: e.Name, Value: float64(many-few) / n, Detail: detail})
	}
	return memory, processes, nil
}

// commands measures a command in a container, without what the client takes to start.
func (b *bench) commands(ctx context.Context) error {
	b.node.pods.forget()
	if err := b.node.create(ctx, "entered"); err != nil {
		return err
	}
	if _, _, err := b.node.pods.wait(ctx, 1); err != nil {
		return err
	}
	kubectl := func(ctx context.Context, args ...string) error {
		cmd := exec.CommandContext(ctx, filepath.Join(b.node.bin, "kontiki"), append([]string{"kubectl", "--kubeconfig", b.node.kubeconfig}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("kubectl %v: %w\n%s", args, err, text)
		}
		return nil
	}
	took, detail, err := beyondStart(ctx, b.execs,
		func(ctx context.Context) error { return kubectl(ctx, "exec", "entered", "--", program, "exit", "0") },
		func(ctx context.Context) error { return kubectl(ctx, "version", "--client") })
	if err != nil {
		return err
	}
	var peers []report.Peer
	for _, e := range b.engines {
		if err := e.Run(ctx, "entered"); err != nil {
			return err
		}
		other, text, err := beyondStart(ctx, b.execs,
			func(ctx context.Context) error { return e.Exec(ctx, "entered", program, "exit", "0") }, e.Nothing)
		if err == nil {
			err = e.Remove(ctx, "entered")
		}
		if err != nil {
			return err
		}
		peers = append(peers, report.Peer{Name: e.Name + " exec", Value: load.MS(other), Detail: text})
	}
	return errors.Join(b.rows(report.Row{
		What: fmt.Sprintf("kubectl exec beyond kubectl's own start, median of %d", b.execs), Value: load.MS(took), Unit: "ms", Target: "≤ 50 ms", Detail: detail,
	}, peers), b.node.clear(ctx))
}

// beyondStart is how much longer a command takes than the same program takes to do nothing; both in turns.
func beyondStart(ctx context.Context, times int, do, nothing func(context.Context) error) (time.Duration, string, error) {
	var took [2][]time.Duration
	for range times {
		for i, f := range []func(context.Context) error{do, nothing} {
			began := time.Now()
			if err := f(ctx); err != nil {
				return 0, "", err
			}
			took[i] = append(took[i], time.Since(began))
		}
	}
	all, start := load.Summarize(took[0], 0, 0).P50, load.Summarize(took[1], 0, 0).P50
	return all - start, fmt.Sprintf("%s - %s ms", load.InMS(all), load.InMS(start)), nil
}

// restarts kills the node with pods on it, and starts it again.
func (b *bench) restarts(ctx context.Context) error {
	b.node.pods.forget()
	if err := beside(ctx, b.kept, func(ctx context.Context, i int) error { return b.node.create(ctx, fmt.Sprintf("kept-%d", i)) }); err != nil {
		return err
	}
	if _, _, err := b.node.pods.wait(ctx, b.kept); err != nil {
		return err
	}
	_, before, err := b.node.lab.Apart(host)
	if err != nil {
		return err
	}
	var took []time.Duration
	for range b.kills {
		if err := b.node.lab.Kill(ctx, host); err != nil {
			return err
		}
		began := time.Now()
		if err := b.node.lab.Start(ctx, host, nodeOptions...); err != nil {
			return err
		}
		err := peer.Wait(ctx, "the agent to be whole again", func() (bool, error) {
			pods, err := b.node.healthy(ctx)
			return err == nil && pods == b.kept, nil
		})
		if err != nil {
			return err
		}
		took = append(took, time.Since(began))
		if err := b.node.unrestarted(ctx, b.kept); err != nil {
			return fmt.Errorf("after the node was killed: %w", err)
		}
	}
	_, after, err := b.node.lab.Apart(host)
	if err != nil {
		return err
	}
	lost := 0
	for _, pid := range before {
		if !slices.Contains(after, pid) {
			lost++
		}
	}
	begun := lost + len(after) - len(before)
	l := load.Summarize(took, 0, 0)
	return errors.Join(
		b.out.Add(report.Row{What: fmt.Sprintf("node killed with %d pods and started, until its agent is whole, median of %d", b.kept, b.kills), Value: l.P50.Seconds(), Unit: "s", Target: "≤ 2 s",
			Detail: fmt.Sprintf("worst %.2f s", l.Max.Seconds())}),
		b.out.Add(report.Row{What: fmt.Sprintf("of %d processes in pods, ended or begun anew by %d kills of the node", len(before), b.kills), Value: float64(max(lost, begun)), Unit: "processes", Target: "= 0 processes"}),
		b.node.clear(ctx))
}

// countRunning counts the pods that an agent tells of and that run.
func countRunning(raw []byte) (running int, err error) {
	var list corev1.PodList
	if err := json.Unmarshal(raw, &list); err != nil {
		return 0, err
	}
	for i := range list.Items {
		s := list.Items[i].Status.ContainerStatuses
		if len(s) > 0 && !slices.ContainsFunc(s, func(c corev1.ContainerStatus) bool { return c.State.Running == nil }) {
			running++
		}
	}
	return running, nil
}

// beside does something many times, some at a time.
func beside(ctx context.Context, count int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := range next {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < count && ctx.Err() == nil; i++ {
		next <- i
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}
