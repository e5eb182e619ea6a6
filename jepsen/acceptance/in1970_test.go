package acceptance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// in1970 runs a program, unchanged, to which the clock says 1970. Time namespaces leave
// the clock of the day alone, and a program asks for it without entering the kernel: in
// the kernel's own page (vDSO), which it finds by an entry of the auxiliary vector. That
// entry is blotted out before the program's first instruction. So it makes system calls,
// which a seccomp filter passes on to here (seccomp_unotify(2)). What it starts in turn
// finds the page again, and has the right time.
func in1970(line []string) error {
	runtime.LockOSThread() // the filter is this thread's and its children's; it is the tracer, too
	listener, err := filterClock()
	if err != nil {
		return fmt.Errorf("filter clock_gettime: %w", err)
	}
	epoch := time.Now()
	for range 2 {
		go answerClock(listener, epoch)
	}
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if err := cmd.Start(); err != nil {
		return err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(cmd.Process.Pid, &status, 0, nil); err != nil || !status.Stopped() {
		return fmt.Errorf("the program did not stop at its first instruction: %v, %#x", err, status)
	}
	if err := hideClockPage(cmd.Process.Pid); err != nil {
		return err
	}
	if err := unix.PtraceDetach(cmd.Process.Pid); err != nil {
		return err
	}
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	return cmd.Wait()
}

// filterClock has the kernel ask the descriptor's holder whenever this thread, or a
// process of its making, asks for the time of day.
func filterClock() (listener int, err error) {
	const (
		load, jumpEqual, answer = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
		number, firstArgument   = 0, 16 // offsets in struct seccomp_data
	)
	program := []unix.SockFilter{
		{Code: load, K: number},
		{Code: jumpEqual, K: unix.SYS_CLOCK_GETTIME, Jf: 3},
		{Code: load, K: firstArgument},
		{Code: jumpEqual, K: unix.CLOCK_REALTIME, Jf: 1},
		{Code: answer, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: answer, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// answerClock answers until nobody is left to ask.
func answerClock(listener int, epoch time.Time) {
	type question struct { // struct seccomp_notif
		id         uint64
		pid, flags uint32
		nr         int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	type reply struct { // struct seccomp_notif_resp
		id    uint64
		val   int64
		err   int32
		flags uint32
	}
	for {
		var q question
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&q))); errno != 0 {
			if errno == unix.EINTR || errno == unix.ENOENT { // it was killed while it asked
				continue
			}
			return
		}
		since := time.Since(epoch)
		spec := binary.NativeEndian.AppendUint64(nil, uint64(since/time.Second))
		spec = binary.NativeEndian.AppendUint64(spec, uint64(since%time.Second))
		r := reply{id: q.id}
		local := []unix.Iovec{{Base: &spec[0], Len: uint64(len(spec))}}
		if _, err := unix.ProcessVMWritev(int(q.pid), local, []unix.RemoteIovec{{Base: uintptr(q.args[1]), Len: len(spec)}}, 0); err != nil {
			r.err = -int32(unix.EFAULT)
		}
		unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r))) // fails if it was killed
	}
}

// hideClockPage makes a process that has not run yet find no vDSO.
func hideClockPage(pid int) error {
	const ignore, sysinfoEhdr = 1, 33 // AT_IGNORE, AT_SYSINFO_EHDR
	vector, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", pid))
	if err != nil {
		return err
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	var from, to uint64
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(line, "[stack]\n") {
			if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
				return err
			}
		}
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	stack := make([]byte, to-from)
	if _, err := mem.ReadAt(stack, int64(from)); err != nil {
		return fmt.Errorf("read the stack: %w", err)
	}
	at := bytes.Index(stack, vector)
	if at < 0 {
		return errors.New("the auxiliary vector is not on the stack")
	}
	word := strconv.IntSize / 8
	for i := 0; i+2*word <= len(vector); i += 2 * word {
		if binary.NativeEndian.Uint64(vector[i:]) == sysinfoEhdr {
			_, err := mem.WriteAt(binary.NativeEndian.AppendUint64(nil, ignore), int64(from)+int64(at+i))
			return err
		}
	}
	return errors.New("the kernel gave the program no vDSO")
}
