package gossip_test

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kontiki/gossip"
)

// TestKeysChangeInALivingRing goes through the three steps of a change, one node after
// the other, with time in between: nobody is lost on the way. Who knows the old key
// alone is shut out at the end, until it is told the new one.
func TestKeysChangeInALivingRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		for i := 1; i <= 4; i++ {
			l.add(i).start(cluster("c"), joining("10.0.0.1"))
		}
		defer l.stopAll()
		l.allSee(2 * time.Second)
		n1, n4 := l.nodes["n1"], l.nodes["n4"]
		n4.crash()
		delete(l.nodes, "n4")
		next := bytes.Repeat([]byte{8}, 32)
		for _, keys := range []gossip.Keys{
			{Step: 1, Primary: ringKey, Also: next},
			{Step: 2, Primary: next, Also: ringKey},
			{Step: 3, Primary: next},
		} {
			for _, n := range l.nodes {
				if err := n.ring.SetKeys(keys); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Second) // long enough to lose whom one does not hear, and for a push-pull
			}
			eventually(t, 5*time.Second, "everybody to know how far the others are", func() bool {
				for _, n := range l.nodes {
					for id := range l.nodes {
						if n.member(id).KeyStep != keys.Step {
							return false
						}
					}
				}
				return true
			})
		}
		for _, n := range l.nodes {
			if log := n.log.String(); strings.Count(log, "held for dead") != 1 || strings.Contains(log, "id=n1 address=10.0.0.1 held") {
				t.Errorf("%s lost somebody besides n4:\n%s", n.id, log)
			}
		}
		if err := n1.ring.SetKeys(gossip.Keys{Step: 2, Primary: ringKey}); err == nil {
			t.Error("a step was taken back")
		}

		n4.start(cluster("c"), joining("10.0.0.1"))
		l.nodes["n4"] = n4
		time.Sleep(time.Minute)
		if got := n4.states(); got != "n1 dead, n2 dead, n3 dead, n4 alive" {
			t.Errorf("with the old key n4 sees %s", got)
		}
		if err := n4.ring.SetKeys(gossip.Keys{Step: 3, Primary: next}); err != nil {
			t.Fatal(err)
		}
		l.allSee(time.Minute)
	})
}

// TestBeaconsWhileKeysChange: nodes that are a step apart find each other.
func TestBeaconsWhileKeysChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		next := bytes.Repeat([]byte{8}, 32)
		behind := func(c *gossip.Config) { c.Keys = gossip.Keys{Step: 1, Primary: ringKey, Also: next} }
		ahead := func(c *gossip.Config) { c.Keys = gossip.Keys{Step: 2, Primary: next, Also: ringKey} }
		for i, keys := range []option{behind, ahead} {
			n := l.add(i + 1)
			n.start(keys, n.beacon())
		}
		defer l.stopAll()
		l.allSee(5 * time.Second)
	})
}
