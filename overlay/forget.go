package overlay

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"sync"

	"kontiki/overlay/datapath"
)

// forgetter has conntrack forget where clients were sent before. It reads the whole
// table, which may be long: so it does that beside the changes of Services, once for
// all that came meanwhile.
type forgetter struct {
	kernel *datapath.Kernel
	log    *slog.Logger
	wake   chan struct{}

	mu      sync.Mutex // protects pending
	pending map[datapath.Frontend][]netip.AddrPort
}

func newForgetter(kernel *datapath.Kernel, log *slog.Logger) *forgetter {
	return &forgetter{kernel: kernel, log: log, wake: make(chan struct{}, 1), pending: map[datapath.Frontend][]netip.AddrPort{}}
}

// add asks for frontends to be looked through, which lead to these endpoints now.
func (f *forgetter) add(now map[datapath.Frontend][]netip.AddrPort) {
	if len(now) == 0 {
		return
	}
	f.mu.Lock()
	maps.Copy(f.pending, now)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *forgetter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
		f.mu.Lock()
		now := f.pending
		f.pending = map[datapath.Frontend][]netip.AddrPort{}
		f.mu.Unlock()
		if err := f.kernel.Forget(now); err != nil {
			// New clients are served right; those that keep sending are not until
			// their entry times out.
			f.log.Warn("clients of endpoints that changed may hang", "error", err)
		}
	}
}
