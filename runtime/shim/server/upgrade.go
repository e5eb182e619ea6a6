package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// The shim upgrades itself by executing the new program in its place: the
// process stays, so the containers remain its children and no exit is missed. State
// is on disk anyway; what only a descriptor holds is inherited, and named in an
// environment variable.

const handoverVariable = "KONTIKI_SHIM_HANDOVER"

// handover is what one program leaves to the next.
type handover struct {
	listener int
	lock     int
	consoles map[string]int // of containers by id
}

type handoverJSON struct {
	Listener int            `json:"listener"`
	Lock     int            `json:"lock"`
	Consoles map[string]int `json:"consoles,omitempty"`
}

// takeHandover reads what an earlier program left; ok is false after an ordinary start.
func takeHandover() (h handover, ok bool, err error) {
	text := os.Getenv(handoverVariable)
	if text == "" {
		return handover{}, false, nil
	}
	os.Unsetenv(handoverVariable)
	var j handoverJSON
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return handover{}, false, fmt.Errorf("%s: %w", handoverVariable, err)
	}
	h = handover{listener: j.Listener, lock: j.Lock, consoles: j.Consoles}
	for _, fd := range h.descriptors() {
		unix.CloseOnExec(fd)
	}
	return h, true, nil
}

func (h handover) descriptors() []int {
	fds := []int{h.listener, h.lock}
	for _, fd := range h.consoles {
		fds = append(fds, fd)
	}
	return fds
}

// upgrade returns only when it failed. It waits for the calls that change
// something; those that merely wait are cut off, and repeated by their clients.
func (s *Server) upgrade(program string) error {
	if st, err := os.Stat(program); err != nil || st.Mode()&0o111 == 0 {
		return fmt.Errorf("upgrade: %s is not a program (%v): %w", program, err, shim.ErrInvalid)
	}
	s.busy.Lock()
	defer s.busy.Unlock()
	h, err := s.makeHandover()
	if err != nil {
		return err
	}
	text, err := json.Marshal(handoverJSON{Listener: h.listener, Lock: h.lock, Consoles: h.consoles})
	if err != nil {
		return err
	}
	for _, fd := range h.descriptors() {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("upgrade: hand over descriptor %d: %w", fd, err)
		}
	}
	s.log.Info("executing another program in place", "program", program)
	env := append(os.Environ(), handoverVariable+"="+string(text))
	err = syscall.Exec(program, append([]string{os.Args[0]}, os.Args[1:]...), env)
	for _, fd := range h.descriptors() {
		unix.CloseOnExec(fd)
	}
	unix.Close(h.listener)
	return fmt.Errorf("upgrade: execute %s: %w", program, err)
}

func (s *Server) makeHandover() (handover, error) {
	h := handover{lock: s.lock, consoles: map[string]int{}}
	raw, err := s.listener.SyscallConn()
	if err != nil {
		return h, err
	}
	var derr error
	if err := raw.Control(func(fd uintptr) {
		h.listener, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
	}); err != nil {
		return h, err
	}
	if derr != nil {
		return h, derr
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.containers {
		if c.io.console > 0 {
			h.consoles[id] = c.io.console
		}
	}
	return h, nil
}

// takeLock makes this the only shim of its folder. The lock goes with the process's last copy of the descriptor.
func takeLock(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return -1, ErrRunning
		}
		return -1, os.NewSyscallError("flock", err)
	}
	unix.Ftruncate(fd, 0)
	unix.Pwrite(fd, []byte(strconv.Itoa(os.Getpid())+"\n"), 0) // for people
	return fd, nil
}
