package server

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// Who holds which end of a container's FIFOs:
//
//	stdout, stderr   container: read+write    so a writer never gets SIGPIPE, whoever else dies
//	                 shim:      read          so that unread bytes live on after the container
//	                 node:      read          gets EOF when the last of the container's processes is gone
//	stdin            container: read
//	                 shim:      write         until CloseStdin, so that a node may come and go
//	                 node:      write
//
// The shim's ends and terminal masters are bare descriptors, kept out of Go's poller:
// every byte that a container writes would wake it.

const (
	streamStdin  = "stdin"
	streamStdout = "stdout"
	streamStderr = "stderr"
)

// stdio is what the shim holds for a container; -1 or 0: nothing.
type stdio struct {
	keepers []int // read ends of the output, write end of stdin
	stdin   int   // index+1 in keepers of stdin's
	console int   // terminal master
}

func (h *stdio) close() {
	for _, fd := range h.keepers {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if h.console > 0 {
		unix.Close(h.console)
	}
	*h = stdio{}
}

func (s *Server) ioPaths(spec *shim.ContainerSpec) shim.IO {
	if spec.Tty {
		return shim.IO{}
	}
	paths := shim.IO{Stdout: s.layout.fifo(spec.ID, streamStdout), Stderr: s.layout.fifo(spec.ID, streamStderr)}
	if spec.Stdin {
		paths.Stdin = s.layout.fifo(spec.ID, streamStdin)
	}
	return paths
}

// childFiles are the ends that go into a new process; closed here after the fork.
type childFiles struct {
	stdin, stdout, stderr *os.File
	consoleParent         *os.File
	consoleChild          *os.File
}

func (f *childFiles) close() {
	for _, file := range []*os.File{f.stdin, f.stdout, f.stderr, f.consoleParent, f.consoleChild} {
		if file != nil {
			file.Close()
		}
	}
}

// attach never stores a nil *os.File in an interface: os/exec would take it for a file.
func (f *childFiles) attach(p *libcontainer.Process) {
	if f.consoleChild != nil {
		p.ConsoleSocket = f.consoleChild
		return
	}
	if f.stdin != nil {
		p.Stdin = f.stdin
	}
	if f.stdout != nil {
		p.Stdout = f.stdout
	}
	if f.stderr != nil {
		p.Stderr = f.stderr
	}
}

func consoleFiles() (*childFiles, error) {
	parent, child, err := utils.NewSockPair("console")
	if err != nil {
		return nil, fmt.Errorf("socket for the terminal: %w", err)
	}
	return &childFiles{consoleParent: parent, consoleChild: child}, nil
}

// receiveConsole takes the terminal's master that the init stage sent.
func (f *childFiles) receiveConsole() (int, error) {
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(f.consoleParent.Fd()), name, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, errors.New("the init stage sent no terminal")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("the init stage sent no terminal")
	}
	// Shared with whoever gets a copy: nonblocking, so that a reader can give up.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return -1, err
	}
	return fds[0], nil
}

// openStdio makes the FIFOs, or the terminal's socket, and opens both sides.
func (s *Server) openStdio(c *container) (*childFiles, error) {
	if c.spec.Tty {
		return consoleFiles()
	}
	files := &childFiles{}
	fail := func(err error) (*childFiles, error) {
		files.close()
		c.io.close()
		return nil, err
	}
	for _, stream := range []string{streamStdin, streamStdout, streamStderr} {
		if stream == streamStdin && !c.spec.Stdin {
			continue
		}
		fifo := s.layout.fifo(c.spec.ID, stream)
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			return fail(&os.PathError{Op: "mkfifo", Path: fifo, Err: err})
		}
	}
	if err := s.holdOutput(c); err != nil {
		return fail(err)
	}
	var err error
	if files.stdout, err = openBlocking(s.layout.fifo(c.spec.ID, streamStdout), unix.O_RDWR); err != nil {
		return fail(err)
	}
	if files.stderr, err = openBlocking(s.layout.fifo(c.spec.ID, streamStderr), unix.O_RDWR); err != nil {
		return fail(err)
	}
	if c.spec.Stdin {
		// Opened for both first: opening one side alone would wait for the other.
		both, err := openBlocking(s.layout.fifo(c.spec.ID, streamStdin), unix.O_RDWR)
		if err != nil {
			return fail(err)
		}
		defer both.Close()
		if files.stdin, err = openBlocking(s.layout.fifo(c.spec.ID, streamStdin), unix.O_RDONLY); err != nil {
			return fail(err)
		}
		if err := s.holdStdin(c); err != nil {
			return fail(err)
		}
	}
	return files, nil
}

func openBlocking(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (s *Server) holdOutput(c *container) error {
	for _, stream := range []string{streamStdout, streamStderr} {
		path := s.layout.fifo(c.spec.ID, stream)
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		c.io.keepers = append(c.io.keepers, fd)
	}
	return nil
}

func (s *Server) holdStdin(c *container) error {
	path := s.layout.fifo(c.spec.ID, streamStdin)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	c.io.keepers = append(c.io.keepers, fd)
	c.io.stdin = len(c.io.keepers)
	return nil
}

// reopenStdio is holdOutput and holdStdin for an adopted container. A failure
// costs unread output or the standard input, not the container.
func (s *Server) reopenStdio(c *container) {
	if c.spec.Tty {
		return
	}
	err := s.holdOutput(c)
	if c.spec.Stdin && !c.rec.StdinClosed && err == nil {
		if err = s.holdStdin(c); errors.Is(err, unix.ENXIO) {
			err = nil // the container closed its end
		}
	}
	if err != nil {
		s.log.Warn("cannot hold an adopted container's output", "container", c.spec.ID, "error", err)
	}
}

func (s *Server) closeStdin(id string) error {
	c, err := s.find(id)
	if err != nil {
		return err
	}
	defer c.mu.Unlock()
	c.rec.StdinClosed = true
	if err := s.save(c); err != nil {
		return err
	}
	if c.io.stdin > 0 {
		unix.Close(c.io.keepers[c.io.stdin-1])
		c.io.keepers[c.io.stdin-1] = -1
		c.io.stdin = 0
	}
	return nil
}

// console returns a copy of the master, none when there is none.
func (s *Server) console(_ context.Context, id string) ([]*os.File, error) {
	c, err := s.find(id)
	if err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	if !c.spec.Tty {
		return nil, fmt.Errorf("container %s has no terminal: %w", id, shim.ErrInvalid)
	}
	if c.io.console <= 0 {
		return nil, nil
	}
	return duplicate(c.io.console)
}

func duplicate(fd int) ([]*os.File, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return []*os.File{os.NewFile(uintptr(dup), "console")}, nil
}

func (s *Server) restoreConsole(id string, files []*os.File) error {
	c, err := s.find(id)
	if err != nil {
		return err
	}
	defer c.mu.Unlock()
	if !c.spec.Tty || len(files) != 1 {
		return fmt.Errorf("container %s: one terminal's master is needed, have %d: %w", id, len(files), shim.ErrInvalid)
	}
	if c.io.console > 0 {
		return nil
	}
	raw, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	var derr error
	if err := raw.Control(func(fd uintptr) {
		c.io.console, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
	}); err != nil {
		return err
	}
	return derr
}
