package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// After Create, the init stage waits in an open of its exec FIFO for writing,
// which somebody's opening for reading ends; then it writes a byte and executes the
// container's program. libcontainer's own Exec does that reading, but cannot take up what a
// shim left that was killed in the middle of it:
//
//	killed after its open, before the byte   init gets EPIPE and ends with 255; the program never ran
//	killed after the byte                    the program runs, and the FIFO is still there
//
// So the start is done here, and whether the program runs is read off the
// process: the init stage holds a descriptor of the FIFO, a program does not.

// execFifo is libcontainer's name for it; it exists from Create until Start.
const execFifo = "exec.fifo"

// initFailed is the exit status of an init stage that failed.
const initFailed = 255

func (s *Server) execFifo(id string) string {
	return filepath.Join(s.layout.libcontainerOf(id), execFifo)
}

func (s *Server) start(ctx context.Context, id string) (shim.Container, error) {
	c, err := s.find(id)
	if err != nil {
		return shim.Container{}, err
	}
	defer c.mu.Unlock()
	if !c.rec.Started.IsZero() {
		return s.view(c), nil
	}
	s.mu.Lock()
	ended, release := c.exit != nil, make(chan struct{})
	if !ended {
		c.release = release
	}
	s.mu.Unlock()
	if ended { // it was killed before its start
		return s.view(c), nil
	}
	at := now()
	began, err := releaseInit(c.proc.pid, s.execFifo(id))
	if began {
		c.rec.Started = at
	}
	s.mu.Lock()
	if began {
		c.started = at
	}
	c.release = nil
	s.mu.Unlock()
	close(release)
	if err != nil {
		return shim.Container{}, fmt.Errorf("start container %s: %w", id, err)
	}
	if !began {
		select {
		case <-c.exited:
			return s.view(c), nil
		case <-ctx.Done():
			return shim.Container{}, ctx.Err()
		}
	}
	// The FIFO goes last: until the time is on disk it tells a successor to look at the process.
	if err := s.save(c); err != nil {
		return shim.Container{}, fmt.Errorf("start container %s: it runs, but cannot be recorded: %w", id, err)
	}
	os.Remove(s.execFifo(id))
	return s.view(c), nil
}

// releaseInit lets the init stage go on and tells whether it did; if not, and
// there is no error, the process has ended.
func releaseInit(pid int, fifo string) (began bool, err error) {
	fd, err := unix.Open(fifo, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: fifo, Err: err}
	}
	defer unix.Close(fd)
	var buf [1]byte
	for {
		if n, _ := unix.Read(fd, buf[:]); n == 1 {
			return true, nil
		}
		where := lookAtInit(pid, fd)
		// The byte may have come between the two looks.
		if n, _ := unix.Read(fd, buf[:]); n == 1 || where == initReleased {
			return true, nil
		}
		if where == initGone {
			return false, nil
		}
		unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20)
	}
}

type initStage int

const (
	initWaiting  initStage = iota // holds the FIFO
	initReleased                  // the container's program runs
	initGone                      // has ended, or is about to
)

// lookAtInit compares a process's descriptors with an open FIFO.
func lookAtInit(pid, fifo int) initStage {
	var want unix.Stat_t
	if err := unix.Fstat(fifo, &want); err != nil {
		return initGone
	}
	proc := "/proc/" + strconv.Itoa(pid)
	entries, _ := os.ReadDir(proc + "/fd")
	for _, e := range entries {
		var st unix.Stat_t
		if unix.Stat(proc+"/fd/"+e.Name(), &st) == nil && st.Dev == want.Dev && st.Ino == want.Ino {
			return initWaiting
		}
	}
	// A process that ends loses its memory before its descriptors, and its link to a program with the memory.
	if _, err := os.Readlink(proc + "/exe"); err != nil {
		return initGone
	}
	return initReleased
}

// noteBegin finds out for an adopted container that is not known to have started whether it has.
func (s *Server) noteBegin(c *container) error {
	if !c.rec.Started.IsZero() {
		os.Remove(s.execFifo(c.spec.ID))
		return nil
	}
	// O_PATH: an open for reading would release it.
	fd, err := unix.Open(s.execFifo(c.spec.ID), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		if lookAtInit(c.proc.pid, fd) != initReleased {
			return nil
		}
	} else if !errors.Is(err, unix.ENOENT) {
		return err
	}
	c.rec.Started = now()
	c.started = c.rec.Started
	if err := s.save(c); err != nil {
		return err
	}
	os.Remove(s.execFifo(c.spec.ID))
	return nil
}

// neverRan tells that an init stage ended by itself without its program having
// begun, which happens when a shim is killed in the middle of a start.
func (s *Server) neverRan(c *container, e ending) bool {
	if e.unknown || e.status.ExitStatus() != initFailed {
		return false
	}
	s.mu.Lock()
	release := c.release
	s.mu.Unlock()
	if release != nil {
		<-release // it looks at the process, not at what we are about to say
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.started.IsZero()
}
