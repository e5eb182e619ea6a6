package shim

import (
	"context"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// killPatience bounds how long ExecSync waits, after its deadline, for what it killed.
const killPatience = 5 * time.Second

// ExecSync runs a command in a container to its end and returns its exit and
// the first limit bytes of what it wrote to both outputs. When ctx ends first, the command
// is killed and ctx's error returned. For probes and hooks.
func (c *Client) ExecSync(ctx context.Context, container string, spec ExecSpec, limit int) (Exit, []byte, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return Exit{}, nil, err
	}
	defer r.Close()
	spec.Tty = false
	id, _, err := c.Exec(ctx, container, spec, Stdio{Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		return Exit{}, nil, err
	}
	read := make(chan []byte, 1)
	go func() {
		head, _ := io.ReadAll(io.LimitReader(r, int64(limit)))
		io.Copy(io.Discard, r) // the command must not wait for us
		read <- head
	}()
	exit, err := c.WaitExec(ctx, container, id)
	if err != nil {
		c.killExec(ctx, container, id)
	}
	// What the command wrote is in the pipe by now; what it left behind in the
	// background may hold the other end for ever.
	r.SetReadDeadline(time.Now().Add(outputPatience))
	return exit, <-read, err
}

// outputPatience is how long ExecSync reads on after its command's end.
const outputPatience = 100 * time.Millisecond

func (c *Client) killExec(ctx context.Context, container, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killPatience)
	defer cancel()
	if err := c.SignalExec(ctx, container, id, unix.SIGKILL); err != nil {
		c.cfg.Logger.Warn("cannot kill a command that took too long", "container", container, "exec", id, "error", err)
	}
}
