package shim

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Config says where a shim lives.
type Config struct {
	// Dir holds everything the shim knows (its socket, state, FIFOs, exits); one
	// shim per Dir. Its path must stay below some 90 bytes, the limit of a socket's name.
	Dir string
	// CgroupRoot is the cgroup below which everything is made, as a path from
	// the root of the hierarchy, e.g. "/kontiki".
	CgroupRoot string
	// Program is the kontiki-shim to run; empty: the one embedded in this program.
	Program string
	Logger  *slog.Logger
}

// Client calls one node's shim. Make it with Start.
type Client struct {
	cfg     Config
	program string // path of the program to start
	hash    string // its SHA-256

	starting chan struct{} // holds one token while a shim is looked for or started

	mu       sync.Mutex // protects what follows
	children []*child   // shims that this process started and has to reap
	closed   bool
}

// attempts of a call across deaths of the shim. Each failed one starts the shim
// anew, so more than a few mean that it dies of the call itself.
const attempts = 3

// Start connects to the shim of cfg.Dir, or starts one. A living shim of
// another build is made to re-execute itself with this client's program, without its
// containers noticing. Repeatable; closing the client stops nothing.
func Start(ctx context.Context, cfg Config) (*Client, error) {
	if !filepath.IsAbs(cfg.Dir) || cfg.CgroupRoot == "" {
		return nil, fmt.Errorf("shim: Dir must be an absolute path and CgroupRoot be set (have %q, %q): %w", cfg.Dir, cfg.CgroupRoot, ErrInvalid)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("shim: make its folder: %w", err)
	}
	program, hash, err := locateProgram(cfg)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, program: program, hash: hash, starting: make(chan struct{}, 1)}
	info, err := c.ensure(ctx)
	// Only here, not whenever a call finds the shim anew: while one node
	// process takes over from another, they would upgrade it back and forth.
	if err == nil && info.Hash != hash {
		err = c.upgrade(ctx, info)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	removeOldPrograms(c.cfg.Dir, c.program)
	return c, nil
}

// keep remembers a started shim, unless the client was closed meanwhile.
func (c *Client) keep(ch *child) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.children = append(c.children, ch)
	}
	return !c.closed
}

// drop forgets one that has ended.
func (c *Client) drop(ch *child) {
	c.mu.Lock()
	c.children = slices.DeleteFunc(c.children, func(other *child) bool { return other == ch })
	c.mu.Unlock()
	ch.forget()
}

// Info asks the living shim who it is.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var info Info
	_, err := c.call(ctx, "Info", nil, &info)
	return info, err
}

// CreateSandbox makes a pod's namespaces, /dev/shm and cgroup, or returns the
// ones that are there. Namespaces lost in a reboot are made anew.
func (c *Client) CreateSandbox(ctx context.Context, spec SandboxSpec) (Sandbox, error) {
	var s Sandbox
	_, err := c.call(ctx, "CreateSandbox", spec, &s)
	return s, err
}

// RemoveSandbox removes it with all containers that are left in it. An unknown id is a success.
func (c *Client) RemoveSandbox(ctx context.Context, id string) error {
	_, err := c.call(ctx, "RemoveSandbox", IDBody{ID: id}, nil)
	return err
}

// ListSandboxes lists all, also those that wait for their first container, by id.
func (c *Client) ListSandboxes(ctx context.Context) ([]Sandbox, error) {
	var list []Sandbox
	_, err := c.call(ctx, "ListSandboxes", nil, &list)
	return list, err
}

// Create prepares a container up to the last step before its own first
// instruction. If the same specification was created before, it returns that
// container in whatever state it is; another one under the same id is ErrConflict.
func (c *Client) Create(ctx context.Context, spec ContainerSpec) (Container, error) {
	var out Container
	_, err := c.call(ctx, "Create", spec, &out)
	return out, err
}

// Start lets a created container run; 0.3 ms. One that was started before is
// returned as it is, exited ones too. A program that cannot be executed makes Create or Start fail.
func (c *Client) Start(ctx context.Context, id string) (Container, error) {
	var out Container
	_, err := c.call(ctx, "Start", IDBody{ID: id}, &out)
	return out, err
}

// Signal sends a signal to the container's first process. SIGKILL ends all its
// processes. For a container that has exited it does nothing.
func (c *Client) Signal(ctx context.Context, id string, signal unix.Signal) error {
	_, err := c.call(ctx, "Signal", SignalBody{ID: id, Signal: int(signal)}, nil)
	return err
}

// State returns one container.
func (c *Client) State(ctx context.Context, id string) (Container, error) {
	var out Container
	_, err := c.call(ctx, "State", IDBody{ID: id}, &out)
	return out, err
}

// List returns all containers, by id.
func (c *Client) List(ctx context.Context) ([]Container, error) {
	var list []Container
	_, err := c.call(ctx, "List", nil, &list)
	return list, err
}

// Delete removes a container, its cgroup, FIFOs and exit; what still runs in it
// is killed. It returns when nothing is left. An unknown id is a success.
func (c *Client) Delete(ctx context.Context, id string) error {
	_, err := c.call(ctx, "Delete", IDBody{ID: id}, nil)
	return err
}

// Update changes the limits of a container that runs; zero fields are left as they are.
func (c *Client) Update(ctx context.Context, id string, r Resources) error {
	_, err := c.call(ctx, "Update", UpdateBody{ID: id, Resources: r}, nil)
	return err
}

// Stats reads a container's cgroup.
func (c *Client) Stats(ctx context.Context, id string) (Stats, error) {
	var s Stats
	_, err := c.call(ctx, "Stats", IDBody{ID: id}, &s)
	return s, err
}

// Usage reads all cgroups of the node: some 0.2 ms for each on v1. Groups that go meanwhile are left out.
func (c *Client) Usage(ctx context.Context) (Usage, error) {
	var u Usage
	_, err := c.call(ctx, "Usage", nil, &u)
	return u, err
}

// Exits returns the exits after cursor that were not acknowledged, in order,
// and the cursor after them; it waits until there is one. From the zero Cursor, and again
// after a new shim took over, it returns every exit that is not acknowledged.
func (c *Client) Exits(ctx context.Context, cursor Cursor) ([]Exit, Cursor, error) {
	var out ExitsBody
	if _, err := c.call(ctx, "Exits", cursor, &out); err != nil {
		return nil, cursor, err
	}
	return out.Exits, out.Cursor, nil
}

// Acknowledge says that these containers' exits are known and need not be
// told again; they stay part of State and List until Delete.
func (c *Client) Acknowledge(ctx context.Context, ids ...string) error {
	_, err := c.call(ctx, "Acknowledge", IDsBody{IDs: ids}, nil)
	return err
}

// CloseStdin lets the container read EOF from its standard input once no client holds the FIFO open.
func (c *Client) CloseStdin(ctx context.Context, id string) error {
	_, err := c.call(ctx, "CloseStdin", IDBody{ID: id}, nil)
	return err
}

// Console returns a copy of the master side of the container's terminal. The
// caller keeps it open for as long as the container lives: with the shim dead it is what
// spares the container a SIGHUP; RestoreConsole hands a copy to the next shim.
func (c *Client) Console(ctx context.Context, id string) (*os.File, error) {
	files, err := c.call(ctx, "Console", IDBody{ID: id}, nil)
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		closeAll(files)
		return nil, fmt.Errorf("shim: the terminal of container %s is gone (no process held it): %w", id, ErrNotFound)
	}
	return files[0], nil
}

// RestoreConsole gives a shim that has lost it a copy of the terminal's master.
func (c *Client) RestoreConsole(ctx context.Context, id string, master *os.File) error {
	_, err := c.call(ctx, "RestoreConsole", IDBody{ID: id}, nil, master)
	return err
}

// Exec starts one more process in a running container and returns its id. With
// spec.Tty it returns the master of its terminal (Resize changes the size), and stdio is ignored.
// ErrUnavailable means that it may or may not have started; every other call is repeated by itself.
func (c *Client) Exec(ctx context.Context, container string, spec ExecSpec, stdio Stdio) (id string, console *os.File, err error) {
	if spec.ID == "" {
		spec.ID = rand.Text()
	}
	body := ExecBody{Container: container, Spec: spec}
	var send []*os.File
	if !spec.Tty {
		for i, f := range []*os.File{stdio.Stdin, stdio.Stdout, stdio.Stderr} {
			if f != nil {
				f.Fd() // makes it blocking, as programs expect their standard streams to be
				body.Streams = append(body.Streams, i)
				send = append(send, f)
			}
		}
	}
	files, err := c.call(ctx, "Exec", body, nil, send...)
	if err != nil {
		return "", nil, err
	}
	if len(files) == 1 && spec.Tty {
		return spec.ID, files[0], nil
	}
	closeAll(files)
	if spec.Tty {
		return "", nil, fmt.Errorf("shim: exec %s in %s gave no terminal", spec.ID, container)
	}
	return spec.ID, nil, nil
}

// WaitExec waits for an exec to end. It may be asked again later: the last 64 of a container are kept.
func (c *Client) WaitExec(ctx context.Context, container, exec string) (Exit, error) {
	var e Exit
	_, err := c.call(ctx, "WaitExec", ExecIDBody{Container: container, Exec: exec}, &e)
	return e, err
}

// SignalExec signals an exec's process; nothing happens if it has ended.
func (c *Client) SignalExec(ctx context.Context, container, exec string, signal unix.Signal) error {
	_, err := c.call(ctx, "SignalExec", ExecIDBody{Container: container, Exec: exec, Signal: int(signal)}, nil)
	return err
}

// Shutdown ends the shim's process; its containers go on and the next shim adopts them.
// The next call starts one. For tests and for taking a node down for good.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := c.once(ctx, "Shutdown", nil, nil)
	if errors.Is(err, ErrUnavailable) {
		return nil
	}
	return err
}

// Close lets go of the shim, which goes on. Calls in flight end with their own contexts.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	children := c.children
	c.children = nil
	c.mu.Unlock()
	for _, ch := range children {
		ch.forget()
	}
	return nil
}

// call makes a call, starting the shim again when it is dead. Calls that carry
// descriptors are not repeated once they were sent.
func (c *Client) call(ctx context.Context, method string, in, out any, files ...*os.File) ([]*os.File, error) {
	var err error
	for range attempts {
		var got []*os.File
		got, err = c.once(ctx, method, in, out, files...)
		if err == nil || !errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
			return got, err
		}
		var sent *sentError
		if method == "Exec" && errors.As(err, &sent) {
			return nil, err
		}
		if _, eerr := c.ensure(ctx); eerr != nil {
			return nil, fmt.Errorf("%w (call %s: %v)", eerr, method, err)
		}
	}
	return nil, err
}

// sentError: the request went out and no answer came.
type sentError struct{ err error }

func (e *sentError) Error() string   { return "the shim ended before it answered: " + e.err.Error() }
func (e *sentError) Unwrap() []error { return []error{ErrUnavailable, e.err} }

func (c *Client) once(ctx context.Context, method string, in, out any, files ...*os.File) ([]*os.File, error) {
	req := Request{Method: method}
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("shim: encode %s: %w", method, err)
		}
		req.Body = body
	}
	var d net.Dialer
	raw, err := d.DialContext(ctx, "unix", filepath.Join(c.cfg.Dir, SocketName))
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	conn := raw.(*net.UnixConn)
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	fail := func(err error) ([]*os.File, error) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &sentError{err}
	}
	if err := WriteFrame(conn, req, files...); err != nil {
		if errors.Is(err, ErrInvalid) {
			return nil, fmt.Errorf("shim: %s: %w", method, err)
		}
		return fail(err)
	}
	var resp Response
	got, err := ReadFrame(conn, &resp)
	if err != nil {
		return fail(err)
	}
	if resp.Error != nil {
		closeAll(got)
		return nil, fmt.Errorf("shim: %s: %w", method, resp.Error)
	}
	if out != nil {
		if err := json.Unmarshal(resp.Body, out); err != nil {
			closeAll(got)
			return nil, fmt.Errorf("shim: decode the answer to %s: %w", method, err)
		}
	}
	return got, nil
}
