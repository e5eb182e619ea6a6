package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// ErrRunning: another shim serves the folder.
var ErrRunning = errors.New("another shim serves this folder")

// Config is what the program was started with.
type Config struct {
	Dir        string // absolute
	CgroupRoot string
	Program    string // path of what runs, which may do so from a copy in memory
	Logger     *slog.Logger
}

// Server serves one folder. Make it with New, once per process: it changes the process (cgroup, subreaper, OOM score).
type Server struct {
	log      *slog.Logger
	layout   layout
	program  string
	tree     tree
	boot     string
	instance string
	hash     func() (string, error)
	oomFloor int
	lock     int
	listener *net.UnixListener
	reaper   *reaper
	events   *procEvents
	filters  filterCache

	ownGroup  string      // folder of the cgroup that this process is in
	expecting atomic.Bool // see expectMove

	busy  sync.RWMutex   // read-held by calls that change something, held by an upgrade
	tasks sync.WaitGroup // watchers and calls
	stop  context.CancelFunc

	mu         sync.Mutex // guards what follows, and of containers what they say is under it
	sandboxes  map[string]*sandbox
	containers map[string]*container
	seq        uint64        // of the last exit
	changed    chan struct{} // closed and replaced at each exit
}

// New takes the folder's lock, adopts what is there, and listens. ErrRunning if another shim has the lock.
func New(cfg Config) (*Server, error) {
	boot, err := bootID()
	if err != nil {
		return nil, fmt.Errorf("read the boot id: %w", err)
	}
	h, inherited, err := takeHandover()
	if err != nil {
		return nil, err
	}
	s := &Server{
		log: cfg.Logger, layout: layout{cfg.Dir}, program: cfg.Program, tree: newTree(cfg.CgroupRoot, systemdRuns()), boot: boot, instance: rand.Text(),
		hash:   sync.OnceValues(func() (string, error) { return shim.HashFile("/proc/self/exe") }),
		lock:   h.lock,
		reaper: newReaper(), events: newProcEvents(cfg.Logger), sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, changed: make(chan struct{}),
	}
	if !inherited {
		if s.lock, err = takeLock(s.layout.lock()); err != nil {
			return nil, err
		}
		if err := s.settle(); err != nil {
			return nil, err
		}
	}
	// Here, before there are goroutines: the first use of a group makes the
	// cgroups package detect file names and keep them in unguarded globals.
	if err := makeCgroup(s.tree.kubepods(), convertResources(shim.Resources{})); err != nil {
		return nil, err
	}
	if s.ownGroup, err = ownGroup(); err != nil {
		s.ownGroup = ""
		s.log.Debug("moves into cgroups are not prepared; the first after a while takes longer", "error", err)
	}
	if s.oomFloor, err = lowestOOMScore(); err != nil {
		return nil, err
	}
	if err := s.adopt(h); err != nil {
		return nil, fmt.Errorf("adopt what is in %s: %w", cfg.Dir, err)
	}
	return s, s.listen(h, inherited)
}

// settle makes the process one that can be the parent of all containers of a node.
func (s *Server) settle() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	if err := enterOwnCgroup(s.tree); err != nil {
		return fmt.Errorf("enter a cgroup of its own: %w", err)
	}
	// The kernel should rather kill any container. Without CAP_SYS_RESOURCE this
	// is refused; then it is as good as can be.
	if err := os.WriteFile(oomScorePath, []byte("-999"), 0); errors.Is(err, fs.ErrPermission) {
		s.log.Debug("this machine does not let the shim be protected from the OOM killer", "error", err)
	} else if err != nil {
		s.log.Warn("cannot protect the shim from the OOM killer", "error", err)
	}
	return nil
}

const oomScorePath = "/proc/self/oom_score_adj"

// lowestOOMScore is the least that a container's may be: with CAP_SYS_RESOURCE
// what it likes, else the shim's own, since a process may only raise it.
func lowestOOMScore() (int, error) {
	b, err := os.ReadFile(oomScorePath)
	if err != nil {
		return 0, err
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, err
	}
	if own <= -999 {
		return -1000, nil
	}
	return own, nil
}

func (s *Server) listen(h handover, inherited bool) error {
	if inherited {
		f := os.NewFile(uintptr(h.listener), "listener")
		defer f.Close()
		l, err := net.FileListener(f)
		if err != nil {
			return fmt.Errorf("take over the socket: %w", err)
		}
		s.listener = l.(*net.UnixListener)
		return nil
	}
	if err := os.Remove(s.layout.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.layout.socket(), Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false) // a successor's may be there by then
	s.listener = l
	return os.Chmod(s.layout.socket(), 0o600)
}

// Run serves until ctx ends or a client asks for Shutdown, and returns when all
// its goroutines have ended. Containers go on.
func (s *Server) Run(ctx context.Context) error {
	ctx, s.stop = context.WithCancel(ctx)
	defer s.stop()
	var loops sync.WaitGroup
	loops.Go(func() { s.reaper.run(ctx) })
	closing := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer closing()
	err := s.accept(ctx)
	s.stop()
	s.giveUpWaiting()
	s.tasks.Wait()
	loops.Wait()
	return err
}

// giveUpWaiting makes the watchers return without an end having been seen.
func (s *Server) giveUpWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if c.proc != nil {
			c.proc.close()
		}
		for _, e := range c.execs {
			if e.proc != nil {
				e.proc.close()
			}
		}
	}
}

func (s *Server) accept(ctx context.Context) error {
	for {
		conn, err := s.listener.AcceptUnix()
		if ctx.Err() != nil {
			if conn != nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			// Out of descriptors or memory: it passes, or nothing works anyway.
			s.log.Error("accept", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		s.tasks.Go(func() { s.serve(ctx, conn) })
	}
}

// requestTimeout bounds how long a connection may take to say what it wants.
const requestTimeout = 10 * time.Second

// serve answers the one call of a connection.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	if !fromRoot(conn) {
		return // the socket's mode forbids it as well
	}
	conn.SetReadDeadline(time.Now().Add(requestTimeout))
	var req shim.Request
	files, err := shim.ReadFrame(conn, &req)
	if err != nil {
		return
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	conn.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The client has no more to say: a read returns when it, or we, hang up.
	hangup := make(chan struct{})
	go func() {
		defer close(hangup)
		conn.Read(make([]byte, 1))
		cancel()
	}()
	defer func() {
		conn.SetReadDeadline(time.Unix(1, 0))
		<-hangup
	}()
	body, out, err := s.dispatch(ctx, req, files)
	resp := shim.Response{Body: body}
	if err != nil {
		resp = shim.Response{Error: shim.NewWireError(err)}
	}
	if werr := shim.WriteFrame(conn, resp, out...); werr != nil && ctx.Err() == nil {
		s.log.Warn("cannot answer", "method", req.Method, "error", werr)
	}
	for _, f := range out {
		f.Close()
	}
}

func fromRoot(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		ok = err == nil && int(cred.Uid) == os.Geteuid()
	})
	return ok
}
