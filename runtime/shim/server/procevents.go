package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel's process events (the connector's cn_proc, linux/cn_proc.h): a message for each end
// of a process of the machine. Before Linux 6.15 nothing else tells reliably how a process ended
// that is not our child: its pidfd does not, and /proc does only until init has reaped it.

const (
	cnIdxProc  = 1 // CN_IDX_PROC, and the group that events are sent to
	cnValProc  = 1 // CN_VAL_PROC
	cnListen   = 1 // PROC_CN_MCAST_LISTEN
	cnProcExit = 0x80000000

	// In a message: struct nlmsghdr, struct cn_msg, struct proc_event with its exit_proc_event.
	cnMsgAt     = unix.SizeofNlMsghdr
	cnMsgSize   = 20
	procEventAt = cnMsgAt + cnMsgSize
	exitPIDAt   = procEventAt + 16
	exitTGIDAt  = exitPIDAt + 4
	exitCodeAt  = exitTGIDAt + 4
	exitMsgSize = exitCodeAt + 4
)

// exitEventPatience is how long the event of an end is waited for that a pidfd has told: the
// kernel sends it right after.
const exitEventPatience = 2 * time.Second

// procEvents tells how processes ended that were expected to. It listens while some are.
type procEvents struct {
	log *slog.Logger

	mu     sync.Mutex
	socket *os.File // nil while nothing is expected
	ends   map[int]chan unix.WaitStatus
}

func newProcEvents(log *slog.Logger) *procEvents {
	return &procEvents{log: log, ends: make(map[int]chan unix.WaitStatus)}
}

// open is openProcess for a process of an earlier shim, and has its end told where its pidfd will not.
func (p *procEvents) open(pid int, startTime uint64) (*process, error) {
	if st, err := readStat(pid); pidfdsTellExits() || err == nil && st.parent == os.Getpid() {
		return openProcess(pid, startTime)
	}
	p.expect(pid) // before it is known to live
	proc, err := openProcess(pid, startTime)
	if err != nil {
		p.forget(pid)
		return nil, err
	}
	proc.events = p
	return proc, nil
}

// expect has the end of a process kept from now on, until forget.
func (p *procEvents) expect(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends[pid] = make(chan unix.WaitStatus, 1)
	if p.socket != nil {
		return
	}
	socket, err := listenForExits()
	if err != nil {
		p.log.Warn("the kernel's process events cannot be had: exit codes of containers that an earlier shim started may be unknown", "error", err)
		return
	}
	p.socket = socket
	go p.receive(socket)
}

func (p *procEvents) forget(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.ends, pid)
	if len(p.ends) == 0 && p.socket != nil {
		p.socket.Close() // ends receive
		p.socket = nil
	}
}

// status is how an expected process ended, which it has.
func (p *procEvents) status(pid int) (unix.WaitStatus, bool) {
	p.mu.Lock()
	end, ok := p.ends[pid]
	ok = ok && p.socket != nil
	p.mu.Unlock()
	if !ok {
		return 0, false
	}
	select {
	case status := <-end:
		return status, true
	case <-time.After(exitEventPatience): // lost: the socket's buffer was full
		return 0, false
	}
}

func (p *procEvents) receive(socket *os.File) {
	b := make([]byte, os.Getpagesize())
	for {
		n, err := socket.Read(b)
		if errors.Is(err, unix.ENOBUFS) { // some were lost
			continue
		}
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				p.log.Warn("the kernel's process events ended", "error", err)
			}
			return
		}
		if n < exitMsgSize {
			continue
		}
		pid := int(binary.NativeEndian.Uint32(b[exitTGIDAt:]))
		p.mu.Lock()
		if end, ok := p.ends[pid]; ok && len(end) == 0 {
			end <- unix.WaitStatus(binary.NativeEndian.Uint32(b[exitCodeAt:]))
		}
		p.mu.Unlock()
	}
}

// listenForExits opens a socket that hears of each process's end, not of threads'.
func listenForExits() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	socket := os.NewFile(uintptr(fd), "process events")
	filter := exitsOnly()
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnIdxProc})
	}
	if err == nil {
		err = unix.Sendto(fd, listenRequest(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) // heard when it returns
	}
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("listen to NETLINK_CONNECTOR: %w", err)
	}
	return socket, nil
}

func listenRequest() []byte {
	var b []byte
	u16 := func(v uint16) { b = binary.NativeEndian.AppendUint16(b, v) }
	u32 := func(v uint32) { b = binary.NativeEndian.AppendUint32(b, v) }
	u32(procEventAt + 4) // nlmsghdr: length, type, flags, sequence, port
	u16(unix.NLMSG_DONE)
	u16(0)
	u32(0)
	u32(0)
	u32(cnIdxProc) // cn_msg: id, sequence, acknowledgement, length, flags
	u32(cnValProc)
	u32(0)
	u32(0)
	u16(4)
	u16(0)
	u32(cnListen)
	return b
}

// exitsOnly lets ends of whole processes through. BPF reads big-endian what the kernel wrote as it is.
func exitsOnly() []unix.SockFilter {
	what := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, cnProcExit))
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: procEventAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: what, Jf: 5},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: exitPIDAt},
		{Code: unix.BPF_MISC | unix.BPF_TAX},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: exitTGIDAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_X, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
}

// pidfdsTellExits reports whether the kernel tells how a process ended to whoever holds a pidfd
// of it, child or not (PIDFD_INFO_EXIT, Linux 6.15).
func pidfdsTellExits() bool {
	var uts unix.Utsname
	if unix.Uname(&uts) != nil {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 6 || major == 6 && minor >= 15
}
