package shim

import (
	"os"

	"golang.org/x/sys/unix"
)

// child is a shim that this process started. It outlives the client, yet
// somebody has to reap it if it ends before this process does. The wait is on a
// pidfd in Go's poller: it costs no thread and can be given up.
type child struct {
	pid    int
	pidfd  *os.File
	done   chan struct{} // closed once it was reaped or forgotten
	failed bool          // valid after done: it ended with an error
}

func watchChild(proc *os.Process) (*child, error) {
	pid := proc.Pid
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		proc.Kill()
		proc.Wait()
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	proc.Release()
	ch := &child{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}
	raw, err := ch.pidfd.SyscallConn()
	if err != nil {
		ch.pidfd.Close()
		return nil, err
	}
	go func() {
		defer close(ch.done)
		raw.Read(func(fd uintptr) bool {
			var status unix.WaitStatus
			got, err := unix.Wait4(ch.pid, &status, unix.WNOHANG, nil)
			if err == nil && got == 0 {
				return false // runs
			}
			ch.failed = err != nil || !status.Exited() || status.ExitStatus() != 0
			return true
		})
	}()
	return ch, nil
}

func (ch *child) ended() bool {
	select {
	case <-ch.done:
		return true
	default:
		return false
	}
}

// forget stops waiting for it.
func (ch *child) forget() {
	ch.pidfd.Close()
	<-ch.done
}
