package acceptance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"kontiki/jepsen/lab"
)

// rounds is how often a proof goes through its faults: few times in make test,
// KONTIKI_ROUNDS times in make jepsen.
func rounds(t *testing.T, few int) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("KONTIKI_ROUNDS"))
	if err != nil {
		return few
	}
	return n
}

// size is how many nodes a cluster under proof has: three, or KONTIKI_NODES.
func size(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("KONTIKI_NODES"))
	if err != nil {
		return 3
	}
	return n
}

// seeded is a source of chance whose seed is printed, and taken from KONTIKI_SEED.
// It fixes the order of faults; what the machine does meanwhile is its own.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed, err := strconv.ParseUint(os.Getenv("KONTIKI_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("KONTIKI_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// nemesis is a fault of the leader, and what ends it.
type nemesis struct {
	name   string
	strike func(t *testing.T, c *cluster, leader *lab.Host) error
	heal   func(t *testing.T, c *cluster, leader *lab.Host) error
}

var nemeses = []nemesis{
	{"killed",
		func(t *testing.T, _ *cluster, h *lab.Host) error { return h.Signal(t.Context(), syscall.SIGKILL) },
		func(_ *testing.T, _ *cluster, h *lab.Host) error { return h.Start() }},
	{"paused",
		func(t *testing.T, _ *cluster, h *lab.Host) error { return h.Signal(t.Context(), syscall.SIGSTOP) },
		func(t *testing.T, _ *cluster, h *lab.Host) error { return h.Signal(t.Context(), syscall.SIGCONT) }},
	{"stopped in order",
		func(t *testing.T, c *cluster, h *lab.Host) error { c.stop(t, h); return nil },
		func(_ *testing.T, _ *cluster, h *lab.Host) error { return h.Start() }},
	{"cut off",
		func(_ *testing.T, c *cluster, h *lab.Host) error {
			return c.Partition(h.Name+"|"+strings.Join(names(c.others(h)), ","), "")
		},
		func(_ *testing.T, c *cluster, _ *lab.Host) error { return c.Heal() }},
	{"cut off from those that it hears",
		func(_ *testing.T, c *cluster, h *lab.Host) error {
			return c.Partition(h.Name+">"+strings.Join(names(c.others(h)), ","), "")
		},
		func(_ *testing.T, c *cluster, _ *lab.Host) error { return c.Heal() }},
	{"losing a tenth of its packets",
		func(_ *testing.T, c *cluster, h *lab.Host) error { return c.Lose(h.Name, 0.1) },
		func(_ *testing.T, c *cluster, _ *lab.Host) error { return c.Heal() }},
	{"deaf to UDP, in which the ring asks who is alive",
		func(_ *testing.T, c *cluster, h *lab.Host) error {
			return c.Partition(h.Name+"|"+strings.Join(names(c.others(h)), ","), "udp")
		},
		func(_ *testing.T, c *cluster, _ *lab.Host) error { return c.Heal() }},
}

func names(hosts []*lab.Host) (names []string) {
	for _, h := range hosts {
		names = append(names, h.Name)
	}
	return names
}

// others are the hosts besides one.
func (c *cluster) others(but *lab.Host) (others []*lab.Host) {
	for _, h := range c.Hosts() {
		if h.Name != but.Name {
			others = append(others, h)
		}
	}
	return others
}

// TestGround takes the leader away again and again while 16 writers write
// through the other nodes.
func TestGround(t *testing.T) {
	chance := seeded(t)
	c := newCluster(t, "ground", size(t))
	w := newWorkload(t, c)
	for i := range rounds(t, 4) {
		n := nemeses[i%len(nemeses)] // each fault once, and then by chance
		if i >= len(nemeses) {
			n = nemeses[chance.IntN(len(nemeses))]
		}
		t.Run(fmt.Sprintf("%d leader %s", i, n.name), func(t *testing.T) { c.strike(t, w, n) })
		if t.Failed() {
			return
		}
	}
	t.Run("an orderly stop", c.orderlyStop)
	t.Run("a minority", func(t *testing.T) { c.minority(t, w) })
	t.Run("reboots", func(t *testing.T) { c.reboots(t, w) })
}

// strike is one round. The fault lasts until every writer had writes acknowledged
// that it had begun after the fault.
func (c *cluster) strike(t *testing.T, w *workload, n nemesis) {
	leader := c.agreedLeader(t)
	others := c.others(leader)
	stop := w.start(t, others)
	defer stop()
	defer w.read(t, leader)()
	w.progress(t, 2)
	struck := time.Now()
	if err := n.strike(t, c, leader); err != nil {
		t.Fatal(err)
	}
	w.progress(t, 3)
	gap := w.longestGap(struck)
	if err := n.heal(t, c, leader); err != nil {
		t.Fatal(err)
	}
	// As soon as the old leader answers, it must know what was acknowledged meanwhile.
	w.readThrough(t, leader)
	w.progress(t, 1)
	stop()
	w.check(t)
	t.Logf("leader %s %s: longest time without an acknowledged write %v, %d acknowledged in all", leader.Name, n.name, gap.Round(time.Millisecond), w.acknowledged())
}

// orderlyStop stops the leader while a client watches through it, which keeps its API
// open for some seconds: leadership must not wait for that.
func (c *cluster) orderlyStop(t *testing.T) {
	leader := c.agreedLeader(t)
	other := c.others(leader)[0]
	watch, err := c.client(t, leader).CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	stopped := make(chan error, 1)
	go func() { stopped <- leader.Signal(t.Context(), syscall.SIGTERM) }()
	c.eventually(t, "another leader", func(ctx context.Context) error {
		for _, s := range c.Status(ctx) {
			if s.Host == other.Name && s.Leader != "" && s.Leader != leader.Name {
				return nil
			}
		}
		return errors.New(leader.Name + " leads still")
	})
	if _, err := leader.Pid(); err != nil {
		t.Errorf("%s had ended before another node led: %v", leader.Name, err)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	c.agreedLeader(t)
}

// agreedLeader waits until every node knows the same leader.
func (c *cluster) agreedLeader(t *testing.T) *lab.Host {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := c.WaitFormed(ctx); err != nil {
		t.Fatal(err)
	}
	return c.leader(t, c.Hosts()[0])
}

// minority cuts one node off, and asks it.
func (c *cluster) minority(t *testing.T, w *workload) {
	leader := c.agreedLeader(t)
	for _, lone := range []*lab.Host{leader, c.others(leader)[0]} {
		known := w.counters(t, lone, "0")
		if err := c.Partition(lone.Name+"|"+strings.Join(names(c.others(lone)), ","), ""); err != nil {
			t.Fatal(err)
		}
		w.writeThrough(t, c.others(lone)[0])
		if now := w.counters(t, lone, "0"); fmt.Sprint(now) != fmt.Sprint(known) {
			t.Errorf("cut off, %s shows %v, and before %v", lone.Name, now, known)
		}
		unwritten := c.refuses(t, lone)
		if err := c.Heal(); err != nil {
			t.Fatal(err)
		}
		w.readThrough(t, lone)
		c.agreedLeader(t)
		w.check(t)
		for _, name := range unwritten {
			if _, err := c.client(t, lone).CoreV1().ConfigMaps("default").Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("%s, of which was said that it was not written: %v, want NotFound", name, err)
			}
		}
	}
}

// refuses asks a node that is cut off for what needs a quorum. It returns what
// the node says that it has not written.
func (c *cluster) refuses(t *testing.T, lone *lab.Host) (unwritten []string) {
	t.Helper()
	client := c.client(t, lone).CoreV1().RESTClient()
	name := "minority-" + lone.Name
	requests := map[string]*rest.Request{
		"a read":  client.Get().Name(counterName(0)),
		"a list":  client.Get(),
		"a write": client.Post().Body(configMap(name, nil)),
	}
	errs := map[string]error{}
	var mu sync.Mutex
	var asked sync.WaitGroup
	for what, request := range requests {
		asked.Go(func() {
			err := request.Namespace("default").Resource("configmaps").Timeout(3 * time.Second).Do(t.Context()).Error()
			mu.Lock()
			defer mu.Unlock()
			errs[what] = err
		})
	}
	asked.Wait()
	for what, err := range errs {
		switch {
		case apierrors.IsServiceUnavailable(err) && strings.Contains(err.Error(), "no quorum"):
			if what == "a write" {
				unwritten = append(unwritten, name)
			}
		// It may lie in a log, or be on its way, where it was not known yet who leads.
		case what == "a write" && apierrors.IsTimeout(err) && strings.Contains(err.Error(), "may or may not have happened"):
		default:
			t.Errorf("%s on %s, which is cut off: %v, want ServiceUnavailable and a word of the quorum", what, lone.Name, err)
		}
	}
	return unwritten
}

// quiet waits until no node writes to its store. Which of its log entries are
// committed, a node knows after a loss of power only once it has written that
// down, which it does when no writes have come for two seconds.
func (c *cluster) quiet(t *testing.T) {
	t.Helper()
	c.eventually(t, "the disks to be silent", func(context.Context) error {
		for _, h := range c.Hosts() {
			info, err := os.Stat(filepath.Join(h.DataDir(), "raft", "raft.db"))
			if err != nil {
				return err
			}
			if since := time.Since(info.ModTime()); since < 4*time.Second {
				return fmt.Errorf("%s wrote to its store %v ago", h.Name, since)
			}
		}
		return nil
	})
}

// reboots cuts the power of all nodes but one, and of all, of which one comes back.
func (c *cluster) reboots(t *testing.T, w *workload) {
	leader := c.agreedLeader(t)
	for _, h := range c.others(leader) {
		if err := h.Reboot(); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range c.others(leader) {
		if err := h.Start(); err != nil {
			t.Fatal(err)
		}
	}
	c.agreedLeader(t)
	w.check(t)
	w.writeThrough(t, leader)
	w.check(t)
	c.quiet(t)
	for _, h := range c.Hosts() {
		if err := h.Reboot(); err != nil {
			t.Fatal(err)
		}
	}
	for _, lone := range c.Hosts() {
		if err := lone.Start(); err != nil {
			t.Fatal(err)
		}
		c.eventually(t, lone.Name+" to show, alone, what was committed", func(ctx context.Context) error {
			return w.holds(ctx, c.client(t, lone))
		})
		c.eventually(t, lone.Name+" to be ready, alone", func(ctx context.Context) error {
			return c.client(t, lone).CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		})
		if lone != c.Hosts()[len(c.Hosts())-1] {
			if err := lone.Signal(t.Context(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, h := range c.Hosts()[:len(c.Hosts())-1] {
		if err := h.Start(); err != nil {
			t.Fatal(err)
		}
	}
	c.agreedLeader(t)
	w.writeThrough(t, c.Hosts()[0])
	w.check(t)
}
