package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"golang.org/x/sys/unix"
)

// programVariable tells a sealed copy where the program is that it was made of.
const programVariable = "KONTIKI_SHIM_PROGRAM"

// runSealed goes on in a sealed copy of this program in memory and returns the path of the program it was made of; on
// an error it has stayed where it was. libcontainer lets no container near a program that could be written to: of
// one that is not sealed it makes a copy for every process that it starts, 7 MB and as many milliseconds.
func runSealed() (program string, err error) {
	if exeseal.IsSelfExeCloned() {
		program = os.Getenv(programVariable)
		os.Unsetenv(programVariable)
		// The kernel has named the process after a descriptor's number.
		name := []byte("kontiki-shim\x00")
		if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0); err != nil {
			return program, os.NewSyscallError("prctl(PR_SET_NAME)", err)
		}
		return program, nil
	}
	if program, err = os.Readlink("/proc/self/exe"); err != nil {
		return "", err
	}
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return program, err
	}
	defer from.Close()
	sealed, seal, err := exeseal.Memfd("kontiki-shim")
	if err != nil {
		return program, fmt.Errorf("make a file in memory: %w", err)
	}
	defer sealed.Close()
	if _, err := io.Copy(sealed, from); err != nil {
		return program, fmt.Errorf("copy the program into memory: %w", err)
	}
	if err := seal(&sealed); err != nil {
		return program, err
	}
	if !exeseal.IsCloned(sealed) { // its start would come here again
		return program, errors.New("the copy in memory is not sealed")
	}
	err = syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", sealed.Fd()), os.Args, append(os.Environ(), programVariable+"="+program))
	return program, os.NewSyscallError("execve", err)
}
