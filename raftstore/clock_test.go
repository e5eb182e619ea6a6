package raftstore_test

import (
	"sync/atomic"
	"testing"
	"time"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// TestTimesToLiveGoByTheGivenClock has a key made and ended by a clock that is not the
// machine's.
func TestTimesToLiveGoByTheGivenClock(t *testing.T) {
	var ahead atomic.Int64
	began := time.Now()
	epoch := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	s := raftstoretest.New(t, func(c *raftstore.Config) {
		c.Now = func() time.Time { return epoch.Add(time.Since(began) + time.Duration(ahead.Load())) }
	})
	mustApply(t, s, raftstore.Txn{Ops: []raftstore.Op{{Kind: raftstore.OpPut, Key: "hour", TTL: time.Hour}}})
	kv, ok := s.View().Get("hour")
	if end := time.Unix(kv.ExpiresUnix, 0); !ok || end.Before(epoch.Add(time.Hour)) || end.After(epoch.Add(2*time.Hour)) {
		t.Errorf("the key ends at %v, want an hour after %v", end.UTC(), epoch)
	}
	ahead.Store(int64(2 * time.Hour))
	mustApply(t, s, put("another", "v")) // the leader looks at what ends whenever something changes
	raftstoretest.Eventually(t, "the key to end", func() bool { _, ok := s.View().Get("hour"); return !ok })
}
