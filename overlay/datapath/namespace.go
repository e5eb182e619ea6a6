package datapath

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
)

// Within runs fn on a thread that is in the network namespace ns; a closed
// handle means the caller's own. fn must not start goroutines that depend on
// the namespace: sockets keep the one they were made in, threads do not.
func Within(ns netns.NsHandle, fn func() error) error {
	if !ns.IsOpen() {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		old, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("opening the thread's network namespace: %w", err)
			return
		}
		defer old.Close()
		if err := netns.Set(ns); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("entering the network namespace: %w", err)
			return
		}
		err = fn()
		// A thread that cannot go back stays locked, so that it ends with this
		// goroutine instead of carrying others into the namespace.
		if netns.Set(old) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
