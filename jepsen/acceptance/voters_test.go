package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"kontiki/jepsen/lab"
)

// hasty has the leader look after the votes sooner than people would want it to.
var hasty = []string{"--stable-voter-after", "2s", "--dead-voter-after", "5s", "--dead-member-after", "10s"}

// newClusterOf is newCluster with options for every node; own are those of one host.
func newClusterOf(t *testing.T, name string, nodes int, own func(h *lab.Host) []string) *cluster {
	t.Helper()
	c := newLab(t, lab.Config{Name: name}, nodes)
	for _, h := range c.Hosts() {
		c.start(t, h, own(h)...)
	}
	var progress bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := c.Up(ctx, &progress)
	t.Logf("lab up:\n%s", progress.String())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// steadyWriter creates one ConfigMap after the other through one node.
type steadyWriter struct {
	client kubernetes.Interface
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex // protects what follows
	written int
	failed  error
}

func startWriter(t *testing.T, client kubernetes.Interface) *steadyWriter {
	ctx, stop := context.WithCancel(context.Background())
	w := &steadyWriter{client: client, stop: stop}
	w.done.Go(func() {
		for ctx.Err() == nil {
			err := w.write(ctx, w.count())
			w.mu.Lock()
			if err == nil {
				w.written++
			} else if ctx.Err() == nil {
				w.failed = err
			}
			w.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	t.Cleanup(func() { stop(); w.done.Wait() })
	return w
}

func (w *steadyWriter) write(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := w.client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("written-%d", n)},
	}, metav1.CreateOptions{})
	return err
}

func (w *steadyWriter) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written
}

// goesOn waits for writes that begin after it was called.
func (w *steadyWriter) goesOn(t *testing.T, c *cluster, when string) {
	t.Helper()
	from := w.count()
	c.eventually(t, "writes to go on "+when, func(context.Context) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.failed != nil {
			t.Fatalf("a write failed %s: %v", when, w.failed)
		}
		if w.written < from+5 {
			return fmt.Errorf("%d were acknowledged, %d before", w.written, from)
		}
		return nil
	})
}

// allThere reads back what was acknowledged.
func (w *steadyWriter) allThere(t *testing.T) {
	t.Helper()
	w.stop()
	w.done.Wait()
	list, err := w.client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, m := range list.Items {
		there[m.Name] = true
	}
	for n := range w.count() {
		if !there[fmt.Sprintf("written-%d", n)] {
			t.Errorf("write %d was acknowledged and is not there", n)
		}
	}
	t.Logf("%d writes, all there", w.count())
}

// TestVotersAreReplaced kills three of five nodes one after another, under writes, and
// has two of them come back: one by itself, with its state, and one that an operator
// removed meanwhile, in vain.
func TestVotersAreReplaced(t *testing.T) {
	c := newClusterOf(t, "voters", 5, func(*lab.Host) []string { return hasty })
	hosts := c.Hosts()
	n1, n2, n3, n5 := hosts[0], hosts[1], hosts[2], hosts[4]
	c.awaitAccount(t, n5, "all to vote, and why", func(a account) bool {
		return a.voters() == "n1 n2 n3 n4 n5" && strings.HasPrefix(a.why("n2"), "healthy")
	})
	before := c.account(t, n1) // what is behind what it is killed at
	writer := startWriter(t, c.client(t, n5))
	writer.goesOn(t, c, "before any loss")

	c.kill(t, n1)
	c.awaitAccount(t, n5, "n1 to keep its vote, since four voters are worth no more than three", func(a account) bool {
		return a.role("n1") == "voter" && strings.Contains(a.why("n1"), "keeps its vote")
	})
	writer.goesOn(t, c, "after the first loss")
	c.kill(t, n2)
	c.awaitAccount(t, n5, "n1 and n2 to vote no more", func(a account) bool { return a.voters() == "n3 n4 n5" })
	c.awaitAccount(t, n5, "n1 to be out of the group, and to be told of", func(a account) bool {
		return a.role("n1") == "away" && strings.Contains(a.why("n1"), "until it is back")
	})
	writer.goesOn(t, c, "after the second loss")
	c.kill(t, n3)
	writer.goesOn(t, c, "after the third loss")

	t.Run("the first comes back by itself, with its state", func(t *testing.T) {
		c.start(t, n1, hasty...)
		var first account
		c.eventually(t, "n1 to say what it holds", func(ctx context.Context) (err error) {
			if first, err = accountOf(ctx, n1); err == nil && first.Revision == 0 {
				err = fmt.Errorf("it is %s", first.Phase)
			}
			return err
		})
		if first.ID != before.ID || first.Revision < before.Revision {
			t.Errorf("n1 was %s at revision %d, and is %s at %d", before.ID, before.Revision, first.ID, first.Revision)
		}
		c.awaitAccount(t, n5, "n1 to vote again, in the place of n3", func(a account) bool { return a.voters() == "n1 n4 n5" })
		if _, err := c.client(t, n1).CoreV1().ConfigMaps("default").Get(t.Context(), "written-0", metav1.GetOptions{}); err != nil {
			t.Errorf("n1 does not serve what was written: %v", err)
		}
	})
	t.Run("one that an operator removed stays out", func(t *testing.T) {
		c.command(t, n5, "members", "remove", "n2")
		c.start(t, n2, hasty...)
		c.awaitAccount(t, n2, "n2 to know it", func(a account) bool { return a.complains("an operator removed this node") })
		if a := c.account(t, n5); a.role("n2") != "" {
			t.Errorf("n2 is %s", a.role("n2"))
		}
	})
	writer.goesOn(t, c, "at the end")
	writer.allThere(t)
}

// TestVoterZones has three votes move to three zones, and an operator's word hold
// against that until it is taken back.
func TestVoterZones(t *testing.T) {
	settings := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(settings, []byte("voters: 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	zones := map[string]string{"n1": "a", "n2": "a", "n3": "a", "n4": "b", "n5": "c"}
	c := newClusterOf(t, "vzones", 5, func(h *lab.Host) []string {
		return append([]string{"--cluster-config", settings, "--zone", zones[h.Name]}, hasty...)
	})
	n1 := c.Hosts()[0]
	spread := func(a account) bool {
		has := map[string]int{}
		for _, name := range strings.Fields(a.voters()) {
			has[zones[name]]++
		}
		return has["a"] == 1 && has["b"] == 1 && has["c"] == 1
	}
	c.awaitAccount(t, n1, "a voter in each zone", spread)
	c.awaitAccount(t, n1, "the others to be told why they do not vote", func(a account) bool {
		for _, m := range a.Members {
			if m.Role == "non-voter" && m.Why != "standby: three voters are enough" {
				return false
			}
		}
		return len(a.Members) == 5
	})
	c.command(t, n1, "members", "demote", "n5")
	c.awaitAccount(t, n1, "another to vote in the place of n5", func(a account) bool {
		return a.role("n5") == "non-voter" && a.why("n5") == "demoted by an operator" && len(strings.Fields(a.voters())) == 3
	})
	c.command(t, n1, "members", "auto", "n5")
	c.awaitAccount(t, n1, "n5 to vote again for its zone", spread)
}
