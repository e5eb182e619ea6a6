package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigaction is the kernel's struct sigaction (not the C library's).
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const (
	sigIgnore = 1  // SIG_IGN
	sigLast   = 64 // SIGRTMAX
)

// defaultSignals undoes what the programs that led to this one chose to ignore:
// an ignored signal stays ignored through exec, down into the containers. Go
// cares for the signals that it knows; glibc's posix_spawn, which make uses,
// leaves 32 and 33 ignored.
func defaultSignals() {
	for signal := uintptr(1); signal <= sigLast; signal++ {
		var now, byDefault sigaction
		const setSize = 8
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, signal, 0, uintptr(unsafe.Pointer(&now)), setSize, 0, 0)
		if errno == 0 && now.handler == sigIgnore {
			unix.RawSyscall6(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&byDefault)), 0, setSize, 0, 0)
		}
	}
}
