package gossip

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	formDial     = 2 * time.Second // for a message, connection included
	formRead     = 5 * time.Second // for an incoming message
	formInbound  = 64              // connections at a time
	formOutbound = 2               // messages under way to one node; protocol resends what is dropped
)

// formRun executes what former decides.
type formRun struct {
	r       *Ring
	c       FormConfig
	f       *former
	inbox   chan formMsg
	results chan formInput // of Found and Accept
	outcome chan Outcome

	mu      sync.Mutex // protects sending
	sending map[string]int
}

// run is one goroutine for all decisions; calls and messages run beside it.
func (x *formRun) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer x.c.Streams.Close()
	defer x.r.setStance(nil)
	wg.Go(func() { x.accept(ctx) })
	wake, stop := x.r.Watch()
	defer stop()
	var at time.Time
	for {
		timer, stopTimer := alarm(at)
		var in formInput
		select {
		case <-timer:
		case <-wake:
			v := x.r.formView()
			in.view = &v
		case m := <-x.inbox:
			in.msg = &m
		case in = <-x.results:
		case <-ctx.Done():
			stopTimer()
			return nil
		}
		stopTimer()
		in.now, in.rnd, in.fresh = time.Now(), rand.Float64(), newClusterID()
		out := x.f.step(in)
		if !x.do(ctx, &wg, out) {
			return nil
		}
		at = out.wake
	}
}

// do carries out one output; false when ctx ended first.
func (x *formRun) do(ctx context.Context, wg *sync.WaitGroup, out formOutput) bool {
	if out.persist && !x.persist(ctx) {
		return false
	}
	for _, l := range out.logs {
		x.r.log.Log(ctx, l.level, l.text, l.attrs...)
	}
	if out.outcome != nil && out.outcome.Kind == Founded {
		x.enter(out.outcome.ClusterID)
	}
	x.r.setStance(x.f.stance())
	for _, s := range out.sends {
		wg.Go(func() { x.send(ctx, s) })
	}
	if p := out.found; p != nil {
		wg.Go(func() {
			grants, err := x.c.Founder.Found(p.ClusterID, p.Settings, out.requests)
			x.result(ctx, formInput{found: &foundResult{p.ID, grants, err}})
		})
	}
	if p := out.accept; p != nil {
		wg.Go(func() {
			err := x.c.Founder.Accept(p.ClusterID, p.Settings, out.grant)
			x.result(ctx, formInput{taken: &acceptResult{p.ID, err}})
		})
	}
	if out.outcome != nil {
		x.decided(*out.outcome)
	}
	return true
}

// persist tries until it succeeds: nothing that follows may happen before.
func (x *formRun) persist(ctx context.Context) bool {
	for told := false; ; told = true {
		err := x.f.st.save(x.r.cfg.Dir)
		if err == nil {
			return true
		}
		if !told {
			x.r.log.Error("formation waits until its state can be stored", "error", err)
		}
		if !sleep(ctx, time.Second) {
			return false
		}
	}
}

// enter tells the ring that this node is now of the cluster.
func (x *formRun) enter(clusterID string) {
	self := x.r.self()
	if err := x.r.SetSelf(Meta{ClusterID: clusterID, Epoch: self.Epoch, Zone: self.Zone, Version: self.Version}); err != nil {
		x.r.log.Error("the ring does not take the new cluster's id", "error", err)
	}
}

func (x *formRun) decided(o Outcome) {
	if o.Kind == Met {
		o.Through = x.r.through(o.ClusterID)
	}
	select {
	case x.outcome <- o:
	default: // Form has one already
	}
}

func (x *formRun) result(ctx context.Context, in formInput) {
	select {
	case x.results <- in:
	case <-ctx.Done():
	}
}

// send delivers one message or drops it; whatever matters is sent again.
func (x *formRun) send(ctx context.Context, s formSend) {
	x.mu.Lock()
	busy := x.sending[s.to] >= formOutbound
	if !busy {
		x.sending[s.to]++
	}
	x.mu.Unlock()
	if busy {
		return
	}
	defer func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.sending[s.to]--; x.sending[s.to] == 0 {
			delete(x.sending, s.to)
		}
	}()
	if err := x.deliver(ctx, s); err != nil {
		x.r.log.Debug("a message of formation was not delivered", "kind", string(s.msg.Kind), "id", s.to, "error", err)
	}
}

func (x *formRun) deliver(ctx context.Context, s formSend) error {
	addr, err := x.r.Resolve(s.to)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, formDial)
	defer cancel()
	conn, err := x.c.Streams.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	return writeFormMsg(conn, s.msg)
}

// accept takes messages until ctx ends.
func (x *formRun) accept(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { x.c.Streams.Close() })
	defer stop()
	slots := make(chan struct{}, formInbound)
	for {
		conn, err := x.c.Streams.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || !sleep(ctx, 10*time.Millisecond) {
				return
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			x.read(ctx, conn)
		})
	}
}

func (x *formRun) read(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	conn.SetReadDeadline(time.Now().Add(formRead))
	m, err := readFormMsg(conn)
	if err != nil {
		x.r.log.Debug("a message of formation was not understood", "from", conn.RemoteAddr(), "error", err)
		return
	}
	if m.From == x.r.cfg.NodeID || m.Proposal != nil && !slices.Contains(m.Proposal.Members, x.r.cfg.NodeID) {
		return
	}
	select {
	case x.inbox <- m:
	case <-ctx.Done():
	}
}
