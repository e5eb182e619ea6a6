package node

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// After a start that used much memory once, little of it is held free.
func TestMemoryIsGivenBackAfterTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- tendMemory(ctx) }()
		released := func() uint64 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapReleased
		}
		runtime.KeepAlive(make([]byte, 64<<20))
		before := released()
		time.Sleep(settleTime + time.Second)
		if after := released(); after < before+48<<20 {
			t.Errorf("%d MiB were given back", (int64(after)-int64(before))>>20)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
