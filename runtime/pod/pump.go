package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kontiki/runtime/logs"
	"kontiki/runtime/shim"
)

// pump carries a container's output into its log and to those attached.
type pump struct {
	files   []*os.File
	out     *Output
	stdin   string        // FIFO, or empty
	console *os.File      // terminal's master, or nil
	done    chan struct{} // closed when all was carried
}

// LogPath is where attempt n of a container logs.
func LogPath(podsDir, uid, container string, attempt int) string {
	return filepath.Join(podsDir, uid, container, fmt.Sprintf("%d.log", attempt))
}

// source is one stream of a container's output.
type source struct {
	stream string
	r      io.Reader
}

// startPump begins to read, or goes on reading, the output of the current attempt.
func (w *Worker) startPump(ctx context.Context, name string, io shim.IO) {
	if err := os.MkdirAll(w.containerDir(name), 0o755); err != nil {
		w.log.Error("cannot keep a container's output", "container", name, "error", err)
		return
	}
	c := w.rec.Containers[name]
	lw, err := logs.NewWriter(LogPath(w.deps.Dir, string(w.rec.Pod.UID), name, c.Attempt), 0, 0, w.log)
	if err != nil {
		w.log.Error("cannot keep a container's output", "container", name, "error", err)
		return
	}
	p := &pump{done: make(chan struct{}), out: &Output{}, stdin: io.Stdin}
	var copying sync.WaitGroup
	for _, s := range w.openOutput(ctx, name, p, io) {
		copying.Go(func() { _ = lw.Copy(s.stream, listened{s.r, p.out, s.stream}) })
	}
	w.pumps[name] = p
	w.jobs.Go(func() {
		copying.Wait()
		p.out.end()
		if err := lw.Close(); err != nil {
			w.log.Error("cannot close a container's log", "container", name, "error", err)
		}
		close(p.done)
		w.post(func(r *Record) { // what waited for the last words goes on
			if c := r.Containers[name]; c != nil && w.pumps[name] == p {
				c.ReapRetry = time.Time{}
			}
		})
	})
}

// openOutput opens what a container writes to.
func (w *Worker) openOutput(ctx context.Context, name string, p *pump, io shim.IO) []source {
	if io.Stdout == "" && io.Stderr == "" {
		master, err := w.openConsole(ctx, w.rec.Containers[name].ID)
		if err != nil {
			if !errors.Is(err, shim.ErrNotFound) && ctx.Err() == nil {
				w.log.Error("cannot read a container's terminal", "container", name, "error", err)
			}
			return nil
		}
		p.console, p.files = master, []*os.File{master}
		return []source{{"stdout", terminal{master}}}
	}
	var list []source
	for _, s := range []struct{ stream, fifo string }{{"stdout", io.Stdout}, {"stderr", io.Stderr}} {
		if s.fifo == "" {
			continue
		}
		f, err := shim.OpenOutput(s.fifo)
		if err != nil {
			if !os.IsNotExist(err) {
				w.log.Error("cannot read a container's output", "container", name, "error", err)
			}
			continue
		}
		p.files = append(p.files, f)
		list = append(list, source{s.stream, f})
	}
	return list
}

// terminal reads a master; its end is EIO, which comes when nobody holds the other side.
type terminal struct{ master *os.File }

func (t terminal) Read(b []byte) (int, error) {
	n, err := t.master.Read(b)
	if errors.Is(err, unix.EIO) {
		err = io.EOF
	}
	return n, err
}

// Pollable makes a file of a received descriptor whose Read can be given up by Close.
func Pollable(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, &fs.PathError{Op: "dup", Path: f.Name(), Err: err}
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "set non-blocking", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (p *pump) finished() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop gives up reading; what was read so far is written.
func (p *pump) stop() {
	for _, f := range p.files {
		_ = f.Close()
	}
}
