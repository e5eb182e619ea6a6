package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// process is a process the shim watches: its child, or one that it adopted.
// The pidfd names it for good, so a recycled pid is never waited for or
// signalled, and it sits in Go's poller, so that waiting costs no thread.
type process struct {
	pid       int
	startTime uint64 // clock ticks since boot, field 22 of /proc/PID/stat
	pidfd     *os.File
	events    *procEvents // tell how it ended, nil where that needs none
}

// errGone: there is no such process any more.
var errGone = errors.New("process is gone")

// openProcess opens pid, which must have started at startTime (0: whenever).
func openProcess(pid int, startTime uint64) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, errGone
	}
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	p := &process{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	// Read after opening: if it matches, the descriptor is of that process.
	st, err := readStat(pid)
	if err == nil && startTime != 0 && st.startTime != startTime {
		err = errGone
	}
	if err != nil {
		p.pidfd.Close()
		return nil, errGone
	}
	p.startTime = st.startTime
	return p, nil
}

// signal sends to exactly this process; one that has ended is a success.
func (p *process) signal(sig unix.Signal) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return nil // closed after the end was seen
	}
	var serr error
	err = raw.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if err != nil || errors.Is(serr, unix.ESRCH) {
		return nil
	}
	return os.NewSyscallError("pidfd_send_signal", serr)
}

// ending is how a process ended.
type ending struct {
	status  unix.WaitStatus
	unknown bool
}

// wait waits for the end and closes the pidfd. A child is reaped by it; of
// another process the kernel tells the status as long as it is a zombie, from Linux 6.15
// afterwards to those who held a pidfd, and always by its events.
// ok is false when the wait was given up because close was called.
func (p *process) wait() (e ending, ok bool) {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return ending{}, false
	}
	child, ended := true, false
	err = raw.Read(func(fd uintptr) bool {
		if child {
			var status unix.WaitStatus
			got, err := wait4(p.pid, &status)
			if err == nil {
				if got == p.pid {
					e.status, ended = status, true
				}
				return ended
			}
			child = false // ECHILD: adopted, another process reaps it
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(poll, 0); n == 0 {
			return false
		}
		ended = true
		e = p.foreignStatus(int(fd))
		return true
	})
	p.close()
	return e, err == nil && ended
}

func (p *process) close() {
	p.pidfd.Close()
	if p.events != nil {
		p.events.forget(p.pid)
	}
}

func wait4(pid int, status *unix.WaitStatus) (int, error) {
	for {
		got, err := unix.Wait4(pid, status, unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) {
			return got, err
		}
	}
}

// foreignStatus finds the status of a process that has ended and is not our
// child. Between its end and its being reaped /proc shows it; after, the pidfd does. A second
// look at the pidfd closes the gap between the two.
func (p *process) foreignStatus(fd int) ending {
	if status, ok := pidfdStatus(fd); ok {
		return ending{status: status}
	}
	if st, err := readStat(p.pid); err == nil && st.startTime == p.startTime && st.state == 'Z' {
		return ending{status: unix.WaitStatus(st.exitCode)}
	}
	if status, ok := pidfdStatus(fd); ok {
		return ending{status: status}
	}
	if p.events != nil {
		if status, ok := p.events.status(p.pid); ok {
			return ending{status: status}
		}
	}
	return ending{unknown: true}
}

func pidfdStatus(fd int) (unix.WaitStatus, bool) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.PIDFD_GET_INFO, uintptr(unsafe.Pointer(&info)))
	if errno != 0 || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, false
	}
	return unix.WaitStatus(info.Exit_code), true
}

// procStat is what we need of /proc/PID/stat (proc_pid_stat(5)).
type procStat struct {
	state     byte
	parent    int
	startTime uint64
	exitCode  uint32
}

func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	return parseStat(b)
}

// parseStat starts after the command's name, which may hold any byte, also ')' and blanks.
func parseStat(b []byte) (procStat, error) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return procStat{}, fmt.Errorf("no command in %q", b)
	}
	f := bytes.Fields(b[end+1:]) // f[0] is field 3
	if len(f) < 50 || len(f[0]) != 1 {
		return procStat{}, fmt.Errorf("%d fields in %q", len(f)+2, b)
	}
	parent, err := strconv.Atoi(string(f[4-3]))
	if err != nil {
		return procStat{}, err
	}
	start, err := strconv.ParseUint(string(f[22-3]), 10, 64)
	if err != nil {
		return procStat{}, err
	}
	code, err := strconv.ParseUint(string(f[52-3]), 10, 32)
	if err != nil {
		return procStat{}, err
	}
	return procStat{state: f[0][0], parent: parent, startTime: start, exitCode: uint32(code)}, nil
}

// unknownCode is the exit code of an end nobody saw, as upstream reports it.
const unknownCode = 137

// codeOf gives the code a shell would show, and the signal.
func (e ending) codeOf() (code, signal int) {
	switch {
	case e.unknown:
		return unknownCode, 0
	case e.status.Signaled():
		return 128 + int(e.status.Signal()), int(e.status.Signal())
	default:
		return e.status.ExitStatus(), 0
	}
}

// bootID tells one life of the machine from the next: pids and start times repeat.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(b)), err
}

// now is a time as it is written down: no monotonic clock, no zone of this machine.
func now() time.Time { return time.Now().UTC().Round(0) }
