package gossip

import (
	"context"
	"log"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	addressInterval = 500 * time.Millisecond // how often Advertise is asked
	leaveTimeout    = time.Second            // each for saying that the node leaves, and leaving
	rebirthPause    = 3 * time.Second        // see during
	streamTimeout   = 4 * time.Second        // dial, and each push-pull
	deadGossip      = 30 * time.Second       // how long a dead member is still told that it is held for dead
	// retransmitMult makes each node pass news on at two intervals at least. With half of
	// it, all would be spent on four nodes drawn at once, and one in some thousand news
	// would miss one of six nodes.
	retransmitMult = 8
	// announceTicks is how many intervals of gossip changed metadata has to leave
	// memberlist's queue; it needs eight at most. What has not left by then was lost there (see
	// ballast, which that queue cannot be given) and is put in once more: without it,
	// everybody else waits for a push-pull with this very node.
	announceTicks = 20
)

func (r *Ring) memberlistConfig(name string, t *transport, d *delegate, keys *memberlist.Keyring) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	tune := r.cfg.Tuning
	c.Name, c.Transport = name, t
	c.BindPort, c.AdvertisePort = int(r.wire.udpPort), int(r.wire.udpPort)
	c.Keyring = keys
	c.Delegate, c.Events, c.Alive, c.Ping = d, d, d, d
	c.ProbeInterval, c.ProbeTimeout = tune.ProbeInterval, tune.ProbeTimeout
	c.GossipInterval, c.GossipNodes = tune.GossipInterval, 4
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = 3, 3
	c.RetransmitMult = retransmitMult
	c.PushPullInterval = tune.PushPull
	c.TCPTimeout = streamTimeout
	c.GossipToTheDeadTime = deadGossip
	c.MsgpackUseNewTimeFormat = true
	c.Logger = log.New(&libraryLog{log: r.log, refused: r.refused, hear: r.figures.hear}, "", 0)
	return c
}

// libraryLog takes memberlist's log. The ring reports what matters to people
// itself; memberlist's own words are for debugging, but for datagrams that cannot
// be decrypted, which tell of a node with another secret.
type libraryLog struct {
	log     *slog.Logger
	refused func(Refusal)
	hear    func(line string)
	mu      sync.Mutex // protects last
	last    time.Time
}

func (l *libraryLog) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	if i := strings.Index(line, "memberlist: "); i >= 0 {
		line = line[i+len("memberlist: "):]
	}
	if strings.HasPrefix(line, "Decrypt packet failed") {
		l.refused(Refusal{Kind: RefusedSecret, Addr: fromOf(line)})
		l.mu.Lock()
		now := time.Now()
		quiet := !l.last.IsZero() && now.Sub(l.last) < time.Minute
		if !quiet {
			l.last = now
		}
		l.mu.Unlock()
		if !quiet {
			l.log.Warn("refused datagrams that are not of this ring; a node with another join secret sends here", "detail", line)
		}
		return len(p), nil
	}
	l.hear(line)
	l.log.Debug("memberlist", "message", line)
	return len(p), nil
}

// fromOf finds the sender in a line of memberlist's ("… from=10.0.0.1:7946"); the
// zero address if there is none.
func fromOf(line string) netip.Addr {
	_, from, _ := strings.Cut(line, "from=")
	ap, _ := netip.ParseAddrPort(strings.TrimSpace(from))
	return ap.Addr().Unmap()
}

// notifier wakes watchers, each at most once until it looks.
type notifier struct {
	mu       sync.Mutex // protects watchers
	watchers map[chan struct{}]struct{}
}

func (n *notifier) watch() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	ch <- struct{}{}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watchers == nil {
		n.watchers = map[chan struct{}]struct{}{}
	}
	n.watchers[ch] = struct{}{}
	return ch, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.watchers, ch)
	}
}

func (n *notifier) notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for ch := range n.watchers {
		poke(ch)
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// sleep reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// alarm returns a channel that fires at a time, never for the zero time.
func alarm(at time.Time) (<-chan time.Time, func() bool) {
	if at.IsZero() {
		return nil, func() bool { return false }
	}
	t := time.NewTimer(time.Until(at))
	return t.C, t.Stop
}

// waitUntil waits for a time (zero: none) or a wake-up; false when ctx ended.
func waitUntil(ctx context.Context, at time.Time, wake <-chan struct{}) bool {
	timer, stop := alarm(at)
	defer stop()
	select {
	case <-timer:
	case <-wake:
	case <-ctx.Done():
		return false
	}
	return ctx.Err() == nil
}
