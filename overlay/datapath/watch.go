package datapath

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Watch tells, until done is closed, that links, addresses, routes or neighbours
// changed: one value for any number of changes. It returns once the
// subscriptions stand, and closes the channel after they have ended: because of
// done, or because the kernel had to drop notices (then subscribe again and
// compare).
func Watch(ns netns.NsHandle, done <-chan struct{}, logger *slog.Logger) (<-chan struct{}, error) {
	var at *netns.NsHandle
	if ns.IsOpen() {
		at = &ns
	}
	failed := func(err error) { logger.Debug("a subscription to network changes ended", "error", err) }
	const room = 1 << 20 // of the sockets: a burst of a thousand pods' links
	links := make(chan netlink.LinkUpdate, 64)
	addrs := make(chan netlink.AddrUpdate, 64)
	routes := make(chan netlink.RouteUpdate, 64)
	neighs := make(chan netlink.NeighUpdate, 64)
	stop := make(chan struct{})
	err := errors.Join(
		netlink.LinkSubscribeWithOptions(links, stop, netlink.LinkSubscribeOptions{Namespace: at, ErrorCallback: failed, ReceiveBufferSize: room}),
		netlink.AddrSubscribeWithOptions(addrs, stop, netlink.AddrSubscribeOptions{Namespace: at, ErrorCallback: failed, ReceiveBufferSize: room}),
		netlink.RouteSubscribeWithOptions(routes, stop, netlink.RouteSubscribeOptions{Namespace: at, ErrorCallback: failed, ReceiveBufferSize: room}),
		netlink.NeighSubscribeWithOptions(neighs, stop, netlink.NeighSubscribeOptions{Namespace: at, ErrorCallback: failed, ReceiveBufferSize: room}),
	)
	if err != nil {
		close(stop)
		return nil, fmt.Errorf("subscribing to network changes: %w", err)
	}
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		var once sync.Once
		end := func() { once.Do(func() { close(stop) }) }
		for links != nil || addrs != nil || routes != nil || neighs != nil {
			changed, open := true, true
			select {
			case <-done:
				end()
				done, changed = nil, false
			case _, open = <-links:
				if !open {
					links = nil
				}
			case _, open = <-addrs:
				if !open {
					addrs = nil
				}
			case _, open = <-routes:
				if !open {
					routes = nil
				}
			case n, ok := <-neighs:
				if open = ok; !ok {
					neighs = nil
				}
				// Other entries come and go with traffic.
				changed = n.Type == unix.RTM_DELNEIGH && n.State&unix.NUD_PERMANENT != 0
			}
			if !open {
				end() // one subscription alone would tell half of the truth
				continue
			}
			if changed {
				select {
				case out <- struct{}{}:
				default:
				}
			}
		}
	}()
	return out, nil
}
