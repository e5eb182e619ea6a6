package raftstore

import (
	"testing"
	"testing/synctest"
	"time"
)

// Founders that lose power at any of their first writes are founders when they are back.
func TestPowerIsLostWhileFounding(t *testing.T) {
	for _, when := range []string{"before", "torn", "after"} {
		for write := 1; write <= 4; write++ {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				c := newSimCluster(&simPlan{Voters: 3, EventBytes: 1 << 20, EventAge: time.Minute}, dir)
				for _, n := range c.nodes {
					c.arm(n, "fault", simTrap{what: "any", after: write, when: when, power: true}, 10*time.Millisecond)
					c.start(n)
				}
				time.Sleep(5 * time.Second)
				if c.leader() == nil {
					t.Errorf("power was lost %s write %d of all founders: nobody leads", when, write)
				}
				c.end()
				for _, n := range c.nodes {
					c.stop(n)
				}
				c.running.Wait()
				time.Sleep(time.Minute)
			})
		}
	}
}
