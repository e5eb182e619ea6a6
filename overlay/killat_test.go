package overlay

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// killBefore has this process killed right before the n-th change that it asks the
// kernel for from now on: a message of netlink, or a file put in place. A seccomp filter
// stops each of them, in every thread, until it is let go.
func killBefore(n int) error {
	const (
		load, equal, answer = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
		goOn                = 1 // SECCOMP_USER_NOTIF_FLAG_CONTINUE
	)
	calls := []uint32{unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2}
	program := []unix.SockFilter{{Code: load, K: 0}}
	for i, call := range calls {
		program = append(program, unix.SockFilter{Code: equal, K: call, Jt: uint8(len(calls) - i)})
	}
	program = append(program, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW}, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_USER_NOTIF})
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	flags := uintptr(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH)
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	type question struct { // struct seccomp_notif
		id   uint64
		rest [9]uint64
	}
	type reply struct { // struct seccomp_notif_resp
		id    uint64
		val   int64
		err   int32
		flags uint32
	}
	go func() {
		for {
			var q question
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, listener, unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&q)))
			if errno == unix.EINTR {
				continue
			}
			if n--; n == 0 || errno != 0 {
				unix.Kill(unix.Getpid(), unix.SIGKILL)
			}
			r := reply{id: q.id, flags: goOn}
			unix.Syscall(unix.SYS_IOCTL, listener, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r)))
		}
	}()
	return nil
}
