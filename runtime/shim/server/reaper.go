package server

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reaper collects the children nobody waits for: processes that outlived their
// parent in a container without a PID namespace of its own, and came to the shim as the
// nearest subreaper. Every other child has somebody who waits for it by pid and
// must not be deprived of its status: libcontainer while a start is under way,
// the registered watcher afterwards.
type reaper struct {
	starting sync.RWMutex // read-held from before a fork until its child is registered or reaped

	mu      sync.Mutex
	watched map[int]bool

	nudge chan struct{}
}

func newReaper() *reaper {
	return &reaper{watched: map[int]bool{}, nudge: make(chan struct{}, 1)}
}

// begin is called before a start that forks; the result after the child was registered.
func (r *reaper) begin() (end func()) {
	r.starting.RLock()
	return func() {
		r.starting.RUnlock()
		r.look()
	}
}

func (r *reaper) watch(pid int) {
	r.mu.Lock()
	r.watched[pid] = true
	r.mu.Unlock()
}

// unwatch follows the watcher's own reaping.
func (r *reaper) unwatch(pid int) {
	r.mu.Lock()
	delete(r.watched, pid)
	r.mu.Unlock()
	r.look()
}

func (r *reaper) look() {
	select {
	case r.nudge <- struct{}{}:
	default:
	}
}

// run reaps until ctx ends. It is woken by SIGCHLD, and by whoever kept it from reaping before.
func (r *reaper) run(ctx context.Context) {
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, unix.SIGCHLD)
	defer signal.Stop(sigs)
	for {
		r.reapOrphans()
		select {
		case <-ctx.Done():
			return
		case <-sigs:
		case <-r.nudge:
		}
	}
}

func (r *reaper) reapOrphans() {
	if !r.starting.TryLock() {
		return // the start's end looks again
	}
	defer r.starting.Unlock()
	for {
		pid := peekZombie()
		r.mu.Lock()
		watched := r.watched[pid]
		r.mu.Unlock()
		// Behind a watched zombie others may wait; its watcher looks again.
		if pid == 0 || watched {
			return
		}
		var status unix.WaitStatus
		if _, err := wait4(pid, &status); err != nil {
			return
		}
	}
}

// peekZombie returns a child that has ended, without reaping it; 0 if there is none.
func peekZombie() int {
	// siginfo_t of SIGCHLD on 64-bit Linux: three ints, padding, then si_pid.
	var info struct {
		_   [16]byte
		pid int32
		_   [108]byte
	}
	err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if err != nil {
		return 0
	}
	return int(info.pid)
}
