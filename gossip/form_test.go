package gossip_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kontiki/gossip"
)

// testFounder gives grants that name their owner, and remembers what it accepted.
type testFounder struct {
	id       string
	mu       sync.Mutex // protects accepted
	accepted []string
}

func (f *testFounder) Request() ([]byte, error) { return []byte("request-" + f.id), nil }

func (f *testFounder) Found(cluster string, settings []byte, requests map[string][]byte) (map[string][]byte, error) {
	grants := map[string][]byte{}
	for id, r := range requests {
		if string(r) != "request-"+id {
			return nil, fmt.Errorf("request of %s is %q", id, r)
		}
		grants[id] = []byte("grant-" + id + "-" + cluster)
	}
	return grants, nil
}

func (f *testFounder) Accept(cluster string, settings, grant []byte) error {
	if string(grant) != "grant-"+f.id+"-"+cluster {
		return fmt.Errorf("grant is %q", grant)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepted = append(f.accepted, cluster)
	return nil
}

type formed struct {
	out gossip.Outcome
	err error
}

func (n *labNode) form(expect int) <-chan formed {
	ch := make(chan formed, 1)
	streams := n.host.Streams("form", 6443)
	go func() {
		out, err := n.ring.Form(context.Background(), gossip.FormConfig{Expect: expect, Settings: []byte("settings"),
			Founder: &testFounder{id: n.id}, Streams: streams})
		ch <- formed{out, err}
	}()
	return ch
}

func await(t *testing.T, ch <-chan formed, limit time.Duration, who string) gossip.Outcome {
	t.Helper()
	select {
	case f := <-ch:
		if f.err != nil {
			t.Fatalf("%s: Form: %v", who, f.err)
		}
		return f.out
	case <-time.After(limit):
		t.Fatalf("waited %v in vain for %s to form", limit, who)
		return gossip.Outcome{}
	}
}

func TestFormAndMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.stopAll()
		start := time.Now()
		waits := map[string]<-chan formed{}
		for i := 1; i <= 3; i++ {
			n := l.add(i)
			n.start(n.beacon())
			waits[n.id] = n.form(3)
		}
		founded := ""
		for id, ch := range waits {
			o := await(t, ch, 5*time.Second, id)
			if o.Kind != gossip.Founded || strings.Join(o.Members, " ") != "n1 n2 n3" ||
				string(o.Grant) != "grant-"+id+"-"+o.ClusterID || string(o.Settings) != "settings" {
				t.Errorf("%s: outcome %+v", id, o)
			}
			if founded != "" && founded != o.ClusterID {
				t.Errorf("%s is in %s, others in %s", id, o.ClusterID, founded)
			}
			founded = o.ClusterID
		}
		t.Logf("formed after %v", time.Since(start))

		n4 := l.add(4)
		n4.start(n4.beacon())
		o := await(t, n4.form(3), 5*time.Second, "n4")
		if o.Kind != gossip.Met || o.ClusterID != founded || len(o.Through) == 0 {
			t.Errorf("n4: outcome %+v", o)
		}
		if err := n4.ring.SetSelf(gossip.Meta{ClusterID: founded}); err != nil {
			t.Error(err)
		}
		eventually(t, 5*time.Second, "n1 sees that n4 entered the cluster", func() bool {
			return l.nodes["n1"].member("n4").ClusterID == founded
		})
		if err := n4.ring.SetSelf(gossip.Meta{ClusterID: "other"}); err == nil {
			t.Error("a node changed its cluster")
		}

		// A restart gives the same answer, with and without the node's own memory of it.
		for _, id := range []string{"n1", "n2"} {
			l.nodes[id].stop()
		}
		l.nodes["n1"].start()
		l.nodes["n2"].start(joining("10.0.0.3"), cluster(founded))
		for _, id := range []string{"n1", "n2"} {
			o := await(t, l.nodes[id].form(3), time.Second, id)
			if o.Kind != gossip.Founded || o.ClusterID != founded {
				t.Errorf("%s after a restart: outcome %+v", id, o)
			}
		}
		l.allSee(time.Minute)
	})
}

// TestFormSurvivesTheCoordinator kills the coordinator as soon as it has founded;
// started again it hands out what it owes.
func TestFormSurvivesTheCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.stopAll()
		for i := 1; i <= 3; i++ {
			n := l.add(i)
			n.start(n.beacon())
		}
		n1 := l.nodes["n1"]
		w1 := n1.form(3)
		w2, w3 := l.nodes["n2"].form(3), l.nodes["n3"].form(3)
		eventually(t, 5*time.Second, "n1 stores a promise", func() bool {
			b, err := os.ReadFile(filepath.Join(n1.dir, "formation.json"))
			return err == nil && strings.Contains(string(b), "promised")
		})
		n1.crash()
		if f := <-w1; f.err == nil && f.out.Kind != gossip.Founded {
			t.Errorf("n1: %+v", f)
		}
		n1.start(n1.beacon())
		o := await(t, n1.form(3), time.Minute, "n1")
		for id, ch := range map[string]<-chan formed{"n2": w2, "n3": w3} {
			if p := await(t, ch, time.Minute, id); p.ClusterID != o.ClusterID || p.Kind != gossip.Founded {
				t.Errorf("%s: outcome %+v, want that of n1: %+v", id, p, o)
			}
		}
	})
}

// TestAloneLooksAroundFirst: a node that expects nobody else, but was told of
// others, meets their cluster rather than founding a second one.
func TestAloneLooksAroundFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.stopAll()
		n1 := l.add(1).start()
		o := await(t, n1.form(1), time.Second, "n1")
		n2 := l.add(2).start(joining("10.0.0.1"))
		if p := await(t, n2.form(1), 5*time.Second, "n2"); p.Kind != gossip.Met || p.ClusterID != o.ClusterID {
			t.Errorf("n2: %+v, want to meet %s", p, o.ClusterID)
		}
		n3 := l.add(3).start(joining("10.0.0.99"))
		if p := await(t, n3.form(1), 10*time.Second, "n3"); p.Kind != gossip.Founded {
			t.Errorf("n3, which reaches nobody: %+v", p)
		}
	})
}

func TestFormRefusesForeignState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.stopAll()
		n := l.add(1)
		n.start()
		path := filepath.Join(n.dir, "formation.json")
		for what, content := range map[string]string{
			"garbage":      "{",
			"newer":        `{"format": 99, "node": "n1"}`,
			"another node": `{"format": 1, "node": "n2"}`,
		} {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if f := <-n.form(1); f.err == nil || !strings.Contains(f.err.Error(), path) {
				t.Errorf("%s: error %v", what, f.err)
			}
		}
		if err := errors.Join(gossip.ResetFormation(n.dir), gossip.ResetFormation(n.dir)); err != nil {
			t.Error(err)
		}
		if o := await(t, n.form(1), time.Second, "n1"); o.Kind != gossip.Founded {
			t.Errorf("after a reset: %+v", o)
		}
	})
}
