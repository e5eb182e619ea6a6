package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"kontiki/bench/load"
	"kontiki/bench/proc"
	"kontiki/raftstore"
)

// order is what the parent tells a replica to do, one at a time.
type order struct {
	Do                  string
	Writers, Size, Many int
	Length              time.Duration
	Prefix              string
}

// answer is what came of it.
type answer struct {
	Error     string
	Leader    string
	Term      uint64
	Revision  uint64
	RSS       float64 // MB
	Latencies load.Latencies
	tally
	Seen map[uint64]int64 // Unix time in ns at which a revision was seen
}

// replica is one process's store and what it does in the background.
type replica struct {
	store *raftstore.Store
	gaps  gaps
	stop  context.CancelFunc // of the background
	wg    sync.WaitGroup
	mu    sync.Mutex
	seen  map[uint64]int64
}

const callTime = 30 * time.Second

func runReplica(ctx context.Context, dir, id string, log raftstore.LogStore, in io.Reader, out io.Writer) error {
	var peers map[string]map[string]string
	b, err := os.ReadFile(filepath.Join(dir, "peers.json"))
	if err == nil {
		err = json.Unmarshal(b, &peers)
	}
	if err != nil {
		return err
	}
	cfg := raftstore.Config{
		NodeID: id, ClusterID: "bench", Dir: filepath.Join(dir, id), Log: log, EventBytes: 64 << 20,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	}
	for peer := range peers["raft"] {
		cfg.Founders = append(cfg.Founders, peer)
	}
	if cfg.Raft, err = listen(dir, id, peers["raft"]); err != nil {
		return err
	}
	if cfg.Calls, err = listen(dir, id, peers["call"]); err != nil {
		return err
	}
	r := &replica{seen: make(map[uint64]int64), stop: func() {}}
	if r.store, err = raftstore.Open(cfg); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	enc := json.NewEncoder(out)
	for lines.Scan() && ctx.Err() == nil {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		a, err := r.obey(ctx, o)
		if err != nil {
			a.Error = err.Error()
		}
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
	r.hush()
	return r.store.Close()
}

func (r *replica) obey(ctx context.Context, o order) (a answer, err error) {
	switch o.Do {
	case "status":
		l := r.store.Leadership()
		a.Leader, a.Term, a.Revision = l.LeaderID, l.Term, r.store.View().Revision()
		var m proc.Use
		m, err = proc.Memory(os.Getpid())
		a.RSS = m.RSS
	case "write":
		value := make([]byte, o.Size)
		a.Latencies = load.Drive(ctx, o.Writers, o.Length, func(ctx context.Context, w, n int) error {
			return r.put(ctx, fmt.Sprintf("%s%d/%d", o.Prefix, w, n%1000), value)
		})
	case "fill":
		err = r.fill(ctx, o)
	case "hammer":
		r.hammer(ctx, o)
	case "gap":
		r.gaps.reset()
	case "peek":
		a.tally = r.gaps.peek()
	case "hush":
		r.hush()
	case "observe":
		err = r.observe(ctx, o.Prefix)
	case "observed":
		r.mu.Lock()
		a.Seen, r.seen = r.seen, make(map[uint64]int64)
		r.mu.Unlock()
	case "fanout":
		a.Latencies, err = r.fanout(ctx, o)
	case "snapshot":
		err = r.store.Snapshot()
	default:
		err = fmt.Errorf("unknown order %q", o.Do)
	}
	return a, err
}

func (r *replica) put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, err := r.store.Apply(ctx, raftstore.Txn{Ops: []raftstore.Op{{Kind: raftstore.OpPut, Key: key, Value: value}}})
	return err
}

// fill writes many different keys.
func (r *replica) fill(ctx context.Context, o order) error {
	var next atomic.Int64
	var failed error
	var once sync.Once
	var wg sync.WaitGroup
	value := make([]byte, o.Size)
	for range o.Writers {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(o.Many); n = next.Add(1) {
				if err := r.put(ctx, fmt.Sprintf("%s%08d", o.Prefix, n), value); err != nil {
					once.Do(func() { failed = err })
					return
				}
			}
		})
	}
	wg.Wait()
	return failed
}

// hammer writes in the background and notes the gaps, until hush.
func (r *replica) hammer(ctx context.Context, o order) {
	r.hush()
	ctx, r.stop = context.WithCancel(ctx)
	value := make([]byte, o.Size)
	for w := range o.Writers {
		r.wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				switch err := r.put(ctx, fmt.Sprintf("%s%d/%d", o.Prefix, w, n%100), value); {
				case err == nil:
					r.gaps.ack()
				case ctx.Err() == nil: // else it is hushed
					r.gaps.fail()
				}
			}
		})
	}
}

func (r *replica) hush() {
	r.stop()
	r.wg.Wait()
	r.stop = func() {}
}

// observe notes, in the background, when each revision is seen here.
func (r *replica) observe(ctx context.Context, prefix string) error {
	r.hush()
	w, err := r.store.Watch(prefix, r.store.View().Revision())
	if err != nil {
		return err
	}
	ctx, r.stop = context.WithCancel(ctx)
	r.wg.Go(func() {
		defer w.Close()
		for {
			events, _, err := w.Next(ctx)
			if err != nil {
				return
			}
			now := time.Now().UnixNano()
			r.mu.Lock()
			for _, e := range events {
				r.seen[e.Revision()] = now
			}
			r.mu.Unlock()
		}
	})
	return nil
}

// fanout measures the time from a write's start until every watch has seen it.
func (r *replica) fanout(ctx context.Context, o order) (load.Latencies, error) {
	var seen sync.WaitGroup
	var watching sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer watching.Wait()
	defer cancel()
	from := r.store.View().Revision()
	for range o.Writers {
		w, err := r.store.Watch(o.Prefix, from)
		if err != nil {
			return load.Latencies{}, err
		}
		watching.Go(func() {
			defer w.Close()
			for {
				events, _, err := w.Next(ctx)
				if err != nil {
					return
				}
				for range events {
					seen.Done()
				}
			}
		})
	}
	var all []time.Duration
	began := time.Now()
	for n := range o.Many {
		seen.Add(o.Writers)
		start := time.Now()
		if err := r.put(ctx, fmt.Sprintf("%s%d", o.Prefix, n), make([]byte, o.Size)); err != nil {
			return load.Latencies{}, err
		}
		seen.Wait()
		all = append(all, time.Since(start))
	}
	return load.Summarize(all, time.Since(began), 0), nil
}
