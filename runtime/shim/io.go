package shim

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenOutput opens one of IO's output FIFOs for reading. Its Read returns EOF
// when no process of the container holds the other end any more, and can be
// given up by Close.
func OpenOutput(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("shim: open a container's output: %w", err)
	}
	return f, nil
}

// Resize changes the size of a terminal by its master.
func Resize(master *os.File, width, height uint16) error {
	raw, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	if err := raw.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	}); err != nil {
		return err
	}
	return ierr
}
