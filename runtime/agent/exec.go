package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"kontiki/runtime/pod"
	"kontiki/runtime/shim"
)

// Enter is what serving exec and attach needs of the shim.
type Enter interface {
	Exec(ctx context.Context, container string, spec shim.ExecSpec, stdio shim.Stdio) (id string, console *os.File, err error)
	WaitExec(ctx context.Context, container, exec string) (shim.Exit, error)
	SignalExec(ctx context.Context, container, exec string, signal unix.Signal) error
	CloseStdin(ctx context.Context, id string) error
}

// lateOutput is how long output is read on after a command's end while nothing
// comes: what it left behind in the background may hold the other end for ever.
const lateOutput = 200 * time.Millisecond

// executor runs one command in one container.
type executor struct {
	a *Agent
	t pod.Target
}

// ExecInContainer implements remotecommand.Executor.
func (x executor) ExecInContainer(ctx context.Context, _, _, _ string, cmd []string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	spec := x.t.Exec
	spec.Args, spec.Tty = cmd, tty
	if tty {
		spec.Env = append([]string{"TERM=xterm"}, spec.Env...) // a later TERM of the container wins
		return x.terminal(ctx, spec, in, out, resize)
	}
	return x.pipes(ctx, spec, in, out, errs)
}

// wait waits for a command and kills it when ctx ends first.
func (x executor) wait(ctx context.Context, id string) error {
	exit, err := x.a.cfg.Shim.WaitExec(ctx, x.t.ID, id)
	if err != nil {
		kill, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if kerr := x.a.cfg.Shim.SignalExec(kill, x.t.ID, id, unix.SIGKILL); kerr != nil {
			x.a.log.Debug("cannot kill a command whose caller is gone", "container", x.t.ID, "exec", id, "error", kerr)
		}
		return err
	}
	if exit.Code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", exit.Code), Code: exit.Code}
	}
	return nil
}

func (x executor) terminal(ctx context.Context, spec shim.ExecSpec, in io.Reader, out io.Writer, resize <-chan remotecommand.TerminalSize) error {
	id, console, err := x.a.cfg.Shim.Exec(ctx, x.t.ID, spec, shim.Stdio{})
	if err != nil {
		return execError(spec, err)
	}
	master, err := pod.Pollable(console)
	if err != nil {
		return err
	}
	defer master.Close() // hangs up, should something still be there
	var copying sync.WaitGroup
	copying.Go(func() {
		if out != nil {
			if _, err := io.Copy(out, master); errors.Is(err, unix.EIO) {
				return
			}
			master.Close() // nobody listens any more
		}
	})
	go resizeAll(master, resize)
	if in != nil {
		go typeInto(master, in)
	}
	err = x.wait(ctx, id)
	_ = master.SetReadDeadline(time.Now().Add(lateOutput))
	copying.Wait()
	return err
}

const endOfTransmission = 0x04

// typeInto carries input to a terminal. Its end is told as a user would: ^D.
// It ends with the stream, which its server closes.
func typeInto(master io.Writer, in io.Reader) {
	if _, err := io.Copy(master, in); err == nil {
		_, _ = master.Write([]byte{endOfTransmission})
	}
}

func resizeAll(master *os.File, sizes <-chan remotecommand.TerminalSize) {
	for size := range sizes {
		if size.Width > 0 && size.Height > 0 {
			_ = shim.Resize(master, size.Width, size.Height) // it may have ended
		}
	}
}

func (x executor) pipes(ctx context.Context, spec shim.ExecSpec, in io.Reader, out, errs io.Writer) error {
	var stdio shim.Stdio
	var theirs []*os.File
	closeTheirs := func() {
		for _, f := range theirs {
			f.Close()
		}
	}
	defer func() { closeTheirs() }()
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err == nil {
			theirs = append(theirs, r, w)
		}
		return r, w, err
	}
	var ended atomic.Bool
	var reads []reading
	for _, s := range []struct {
		to   io.Writer
		into **os.File
	}{{out, &stdio.Stdout}, {errs, &stdio.Stderr}} {
		if s.to == nil {
			continue
		}
		r, w, err := pipe()
		if err != nil {
			return err
		}
		*s.into = w
		reads = append(reads, reading{r, s.to})
	}
	var stdin *os.File
	if in != nil {
		r, w, err := pipe()
		if err != nil {
			return err
		}
		stdio.Stdin, stdin = r, w
	}
	id, _, err := x.a.cfg.Shim.Exec(ctx, x.t.ID, spec, stdio)
	if err != nil {
		return execError(spec, err)
	}
	for _, f := range []*os.File{stdio.Stdin, stdio.Stdout, stdio.Stderr} {
		if f != nil {
			f.Close() // ours; the command has its own
		}
	}
	if stdin != nil {
		go func() {
			_, _ = io.Copy(stdin, in)
			stdin.Close()
		}()
	}
	var copying sync.WaitGroup
	for _, r := range reads {
		copying.Go(func() { r.carry(&ended) })
	}
	err = x.wait(ctx, id)
	ended.Store(true)
	for _, r := range reads {
		_ = r.from.SetReadDeadline(time.Now().Add(lateOutput))
	}
	copying.Wait()
	return err
}

// reading carries one stream of a command's output.
type reading struct {
	from *os.File
	to   io.Writer
}

// carry reads to the end; after the command's end, as long as something comes.
func (r reading) carry(ended *atomic.Bool) {
	buf := make([]byte, 32<<10)
	to := r.to
	for {
		n, err := r.from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				to = io.Discard // the command must not wait for one who is gone
			}
			if ended.Load() {
				_ = r.from.SetReadDeadline(time.Now().Add(lateOutput))
			}
		}
		if err != nil {
			return
		}
	}
}

// execError says in upstream's words why a command could not be started.
func execError(spec shim.ExecSpec, err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		return utilexec.CodeExitError{Err: fmt.Errorf("exec %q: %w", spec.Args[0], err), Code: 127}
	case strings.Contains(text, "permission denied"):
		return utilexec.CodeExitError{Err: fmt.Errorf("exec %q: %w", spec.Args[0], err), Code: 126}
	}
	return err
}

// attacher listens to a container, and talks to it.
type attacher struct {
	a *Agent
	t pod.Target
}

// AttachContainer implements remotecommand.Attacher.
func (x attacher) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	if x.t.Output == nil {
		return errors.New("the container's output is not read by this agent")
	}
	tap := x.t.Output.Tap()
	if tap == nil {
		return nil // it has ended
	}
	defer tap.Close()
	if x.t.TTY {
		master, err := x.a.cfg.Shim.Console(ctx, x.t.ID)
		if err != nil {
			return err
		}
		defer master.Close()
		go resizeAll(master, resize)
		if in != nil {
			go func() { _, _ = io.Copy(master, in) }() // its end is the user's leaving, not the container's
		}
	} else if in != nil && x.t.Stdin != "" {
		if err := x.feed(ctx, in); err != nil {
			return err
		}
	}
	for {
		c, err := tap.Next(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		to := out
		if c.Stream == "stderr" {
			to = errs
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(c.Data); err != nil {
			return err
		}
	}
}

// feed writes input into the container's FIFO in the background.
func (x attacher) feed(ctx context.Context, in io.Reader) error {
	f, err := os.OpenFile(x.t.Stdin, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open the container's standard input: %w", err)
	}
	go func() {
		_, _ = io.Copy(f, in)
		f.Close()
		if !x.t.StdinOnce {
			return
		}
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := x.a.cfg.Shim.CloseStdin(closing, x.t.ID); err != nil {
			x.a.log.Debug("cannot close a container's standard input", "container", x.t.ID, "error", err)
		}
	}()
	return nil
}
