package pod

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"kontiki/runtime/logs"
	"kontiki/runtime/shim"
)

// pump carries a container's output from its FIFOs into its log.
type pump struct {
	files []*os.File
	done  chan struct{} // closed when all was carried
}

// LogPath is where attempt n of a container logs.
func LogPath(podsDir, uid, container string, attempt int) string {
	return filepath.Join(podsDir, uid, container, fmt.Sprintf("%d.log", attempt))
}

// startPump begins to read, or goes on reading, the output of the current attempt.
func (w *Worker) startPump(name string, io shim.IO) {
	if io.Stdout == "" && io.Stderr == "" {
		return // a terminal
	}
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
	p := &pump{done: make(chan struct{})}
	var copying sync.WaitGroup
	for _, s := range []struct{ name, fifo string }{{"stdout", io.Stdout}, {"stderr", io.Stderr}} {
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
		copying.Go(func() { _ = lw.Copy(s.name, f) })
	}
	w.pumps[name] = p
	w.jobs.Go(func() {
		copying.Wait()
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
