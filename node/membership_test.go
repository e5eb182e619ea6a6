package node

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestCertificatesAreKeptFresh: they are renewed long before they end, as soon as the node has another
// address or its clock is set back, and again and again while that fails or leaves something to be written.
func TestCertificatesAreKeptFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // protects what follows
		addr, fails, unwritten, renewals := netip.MustParseAddr("192.0.2.1"), 0, 0, 0
		ahead := time.Duration(0)
		clock := func() time.Time { // mu is held
			return time.Now().Add(ahead)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() {
			keepFresh(ctx, time.Now(), addr, func() time.Time {
				mu.Lock()
				defer mu.Unlock()
				return clock()
			}, func() netip.Addr {
				mu.Lock()
				defer mu.Unlock()
				return addr
			}, func() (time.Time, netip.Addr, error) {
				mu.Lock()
				defer mu.Unlock()
				renewals++
				if fails > 0 {
					fails--
					return time.Time{}, netip.Addr{}, errors.New("not now")
				}
				if unwritten > 0 {
					unwritten--
					return time.Time{}, addr, nil
				}
				return clock(), addr, nil
			})
		})
		after := func(what string, wait time.Duration, change func(), want int) {
			t.Helper()
			mu.Lock()
			renewals = 0
			change()
			mu.Unlock()
			time.Sleep(wait)
			mu.Lock()
			defer mu.Unlock()
			if renewals != want {
				t.Errorf("%s: %d renewals within %v, want %d", what, renewals, wait, want)
			}
		}
		none := func() {}
		after("fresh ones", renewAfter-time.Minute, none, 0)
		after("old ones", 2*time.Minute, none, 1)
		after("renewed ones", renewAfter-time.Hour, none, 0)
		after("another address", time.Minute, func() { addr = netip.MustParseAddr("192.0.2.2") }, 1)
		after("another address, and two failures", time.Minute, func() { addr, fails = netip.MustParseAddr("192.0.2.3"), 2 }, 3)
		after("another address, and a disk that is full for a while", time.Minute, func() { addr, unwritten = netip.MustParseAddr("192.0.2.4"), 3 }, 4)
		after("a clock that is put forward", time.Minute, func() { ahead = renewAfter }, 1)
		after("a clock that is set back", time.Minute, func() { ahead = 0 }, 1)
		cancel()
		done.Wait()
	})
}
