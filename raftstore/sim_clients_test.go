package raftstore

import (
	"fmt"
	"math/rand/v2"
	"time"

	"kontiki/jepsen/check"
)

const (
	simRegisters = 5
	simAccounts  = 6
	simLeases    = 4
	simTTLMost   = time.Second
	simTTLGrace  = 2 * time.Second // that a leader may take to see that a key's time is over
)

// simClient does one operation after the other, on whatever node it turns to.
type simClient struct {
	*simCluster
	id      int
	random  *rand.Rand
	written int
	known   [simRegisters]check.Version // as it read them last
}

func (c *simCluster) newClient() *simClient {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts["clients"]++
	id := c.counts["clients"]
	return &simClient{simCluster: c, id: id, random: rand.New(rand.NewPCG(c.plan.Seed, uint64(100+id)))}
}

// value is one that nobody else writes.
func (k *simClient) value() string {
	k.written++
	return fmt.Sprintf("%d-%d", k.id, k.written)
}

// simWork is what clients do, each by turns.
var simWork = []struct {
	name string
	turn func(*simClient, *simProcess)
}{
	{"register", (*simClient).register}, {"register", (*simClient).register}, {"set", (*simClient).set}, {"txn", (*simClient).txn},
	{"txn", (*simClient).txn}, {"lease", (*simClient).lease}, {"read", (*simClient).read}, {"local", (*simClient).local},
}

func (c *simCluster) startClients() {
	for i := range c.plan.Clients {
		k := c.newClient()
		c.clients.Go(func() { k.work(i) })
	}
}

func (c *simCluster) clientsEnd() {
	c.mu.Lock()
	c.finished = time.Now()
	c.mu.Unlock()
	c.clients.Wait()
}

func (c *simCluster) ending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.finished.IsZero()
}

func (k *simClient) work(i int) {
	work := simWork[i%len(simWork)]
	var p *simProcess
	for !k.ending() {
		time.Sleep(time.Duration(k.random.Int64N(int64(2 * k.plan.Pause))))
		if p == nil || !p.alive() || k.random.IntN(4) == 0 {
			p = k.nodes[k.random.IntN(len(k.nodes))].at()
		}
		if p != nil {
			work.turn(k, p)
		}
	}
}

// patience is how long a client waits for an answer: some give up soon.
func (k *simClient) patience() time.Duration {
	return []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second}[k.random.IntN(3)]
}

// apply runs a transaction and notes it.
func (k *simClient) apply(p *simProcess, what string, compares []check.Compare, updates []check.Update, ttl, patience time.Duration) (check.Txn, check.Outcome) {
	txn := Txn{}
	for _, c := range compares {
		txn.Compares = append(txn.Compares, Compare{Key: c.Key, ModRevision: c.Mod})
	}
	for _, u := range updates {
		op := Op{Kind: OpPut, Key: u.Key, Value: []byte(u.Value), TTL: ttl}
		if u.Deleted {
			op = Op{Kind: OpDelete, Key: u.Key}
		}
		txn.Ops = append(txn.Ops, op)
	}
	if l := p.store.Leadership(); l.Self && patience < simPatience && k.random.IntN(8) == 0 {
		txn.Term = l.Term
	}
	ctx, cancel := k.within(patience)
	defer cancel()
	t := check.Txn{What: fmt.Sprintf("%s of client %d on %s, %v", what, k.id, p.name, updates), Compares: compares, Updates: updates}
	t.Call = k.moment.Add(1)
	var r TxnResult
	t.Outcome = check.Failed
	if p.receive(ctx) {
		var err error
		r, err = p.store.Apply(ctx, txn)
		t.Outcome = simOutcome(p, err)
	}
	t.Return = k.moment.Add(1)
	t.Succeeded, t.Revision, t.Revisions = r.Succeeded, r.Revision, r.Revisions
	for _, kv := range r.Current {
		t.Current = append(t.Current, entryOf(kv))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.txns = append(k.txns, t)
	k.counts[what+[]string{"", ": ok", ": failed", ": unknown"}[t.Outcome]]++
	return t, t.Outcome
}

func (k *simClient) noteRegister(op check.RegisterOp) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.registers = append(k.registers, op)
}

// register reads, writes, deletes, or swaps what it read last.
func (k *simClient) register(p *simProcess) {
	i := k.random.IntN(simRegisters)
	op := check.RegisterOp{Key: fmt.Sprintf("reg/%d", i), Kind: check.Swap, Expect: k.known[i], New: k.value()}
	var compares []check.Compare
	updates := []check.Update{{Key: op.Key, Value: op.New}}
	switch draw := k.random.IntN(20); {
	case draw < 8:
		op.Kind = check.Read
	case draw < 11:
		op.Kind = check.Write
	case draw < 12:
		op.Kind, op.New, updates[0] = check.Delete, "", check.Update{Key: op.Key, Deleted: true}
	}
	if op.Kind == check.Read {
		v, point, ok := k.linearize(p, op.Key)
		if !ok {
			return
		}
		op.Span, op.Outcome = point.Span, check.OK
		if kv, ok := v.Get(op.Key); ok {
			op.Seen = check.Version{Value: string(kv.Value), Revision: kv.ModRevision}
		}
		k.known[i] = op.Seen
		k.noteRegister(op)
		return
	}
	if op.Kind == check.Swap {
		compares = []check.Compare{{Key: op.Key, Mod: op.Expect.Revision}}
	}
	t, _ := k.apply(p, "register", compares, updates, 0, k.patience())
	op.Span, op.Outcome = t.Span, t.Outcome
	switch {
	case t.Outcome != check.OK:
	case t.Succeeded && op.Kind != check.Delete:
		op.Swapped, op.Seen = true, check.Version{Value: op.New, Revision: t.Revisions[0]}
	case !t.Succeeded:
		op.Seen = check.Version{Value: t.Current[0].Value, Revision: t.Current[0].Mod}
	}
	if t.Outcome == check.OK {
		k.known[i] = op.Seen
	}
	k.noteRegister(op)
}

// set adds an element of its own, without a condition: one that is added twice shows.
func (k *simClient) set(p *simProcess) {
	value := k.value()
	a := check.Add{Element: "set/" + value}
	_, a.Outcome = k.apply(p, "set", nil, []check.Update{{Key: a.Element, Value: value}}, 0, k.patience())
	k.mu.Lock()
	defer k.mu.Unlock()
	k.adds = append(k.adds, a)
}

// txn changes some accounts on the condition that some are as this node shows them.
func (k *simClient) txn(p *simProcess) {
	v := p.store.View()
	var compares []check.Compare
	var updates []check.Update
	for n, i := range k.random.Perm(simAccounts)[:2+k.random.IntN(2)] {
		key := fmt.Sprintf("acct/%d", i)
		kv, _ := v.Get(key)
		if k.random.IntN(4) > 0 {
			compares = append(compares, check.Compare{Key: key, Mod: kv.ModRevision})
		}
		if n > 0 && k.random.IntN(5) == 0 { // the first one is a put: see check.Txns
			updates = append(updates, check.Update{Key: key, Deleted: true})
		} else {
			updates = append(updates, check.Update{Key: key, Value: k.value()})
		}
	}
	k.apply(p, "txn", compares, updates, 0, k.patience())
}

// lease puts a key that ends by itself, or gives it more time, or none that ends.
func (k *simClient) lease(p *simProcess) {
	g := check.Grant{Value: k.value(), At: time.Now(), TTL: time.Duration(1 + k.random.Int64N(int64(simTTLMost)))}
	key := fmt.Sprintf("ttl/%d", k.random.IntN(simLeases))
	k.mu.Lock()
	k.grants = append(k.grants, g)
	k.mu.Unlock()
	k.apply(p, "lease", nil, []check.Update{{Key: key, Value: g.Value}}, g.TTL, k.patience())
}

// linearize reads some keys, and one among them.
func (k *simClient) linearize(p *simProcess, key string) (View, check.Point, bool) {
	ctx, cancel := k.within(k.patience())
	defer cancel()
	point := check.Point{What: fmt.Sprintf("linearizable read of client %d on %s", k.id, p.name)}
	point.Call = k.moment.Add(1)
	var v View
	point.Outcome = check.Failed
	if p.receive(ctx) {
		var err error
		v, err = p.store.Linearize(ctx)
		point.Outcome = simOutcome(p, err)
	}
	point.Return = k.moment.Add(1)
	k.count("linearizable read"+[]string{"", ": ok", ": failed", ": unknown"}[point.Outcome], 1)
	if point.Outcome != check.OK {
		return v, point, false
	}
	point.Revision = v.Revision()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reads = append(k.reads, point)
	k.seen = append(k.seen, k.look(point.What, v, key))
	return v, point, true
}

// look takes some keys from a view.
func (k *simClient) look(what string, v View, keys ...string) check.Seen {
	s := check.Seen{What: what, Revision: v.Revision(), Keys: make(map[string]check.Entry)}
	for range 3 {
		keys = append(keys, fmt.Sprintf("acct/%d", k.random.IntN(simAccounts)))
	}
	for _, key := range keys {
		if kv, ok := v.Get(key); ok {
			s.Keys[key] = entryOf(&kv)
		} else {
			s.Keys[key] = check.Entry{}
		}
	}
	return s
}

func (k *simClient) read(p *simProcess) { k.linearize(p, "reg/0") }

// local reads what the replica holds: now, or as it was at an earlier revision.
func (k *simClient) local(p *simProcess) {
	point := check.Point{What: fmt.Sprintf("local read of client %d on %s", k.id, p.name), Outcome: check.OK}
	ctx, cancel := k.within(time.Second)
	defer cancel()
	point.Call = k.moment.Add(1)
	if !p.receive(ctx) {
		return
	}
	v := p.store.View()
	point.Return = k.moment.Add(1)
	point.Revision = v.Revision()
	old, err := p.store.ViewAt(ctx, v.Revision()-min(v.Revision(), uint64(k.random.IntN(60))))
	if !p.alive() {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.counts["local read: ok"]++
	k.locals[p.name] = append(k.locals[p.name], point)
	k.seen = append(k.seen, k.look(point.What, v))
	if err == nil {
		k.counts["read in the past: ok"]++
		k.seen = append(k.seen, k.look("read in the past on "+p.name, old))
	}
}
