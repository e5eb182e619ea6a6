// Package logs writes and reads containers' log files in the CRI format: one
// line per entry, "TIME STREAM TAG CONTENT", tag P for a part of a line and F for
// its end. Files rotate by size: n.log is the current one, n.log.TIME are older.
//
// A Writer takes both streams of one container, from one goroutine each. Read may
// run in any number of goroutines beside it. It imports no room.
package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Upstream's defaults of a log's size and number of files.
const (
	DefaultMaxBytes = 10 << 20
	DefaultMaxFiles = 5
)

// maxLine is how much of a line becomes one entry, as container engines have it.
const maxLine = 16 << 10

const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// Writer appends to one container's log.
type Writer struct {
	path     string
	maxBytes int64
	maxFiles int
	now      func() time.Time
	log      *slog.Logger

	mu     sync.Mutex // protects what follows, and the order of entries
	file   *os.File
	size   int64
	broken bool // the last write failed; said once
}

// NewWriter opens or makes the file at path. Zero limits mean the defaults.
func NewWriter(path string, maxBytes int64, maxFiles int, log *slog.Logger) (*Writer, error) {
	w := &Writer{path: path, maxBytes: maxBytes, maxFiles: maxFiles, now: time.Now, log: log}
	if w.maxBytes <= 0 {
		w.maxBytes = DefaultMaxBytes
	}
	if w.maxFiles <= 0 {
		w.maxFiles = DefaultMaxFiles
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if err := w.openLocked(); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *Writer) openLocked() error {
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("container log: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("container log: %w", err)
	}
	w.file, w.size = f, fi.Size()
	// A writer that died in the middle of an entry must not spoil the next one.
	if w.size > 0 {
		var last [1]byte
		if _, err := f.ReadAt(last[:], w.size-1); err == nil && last[0] != '\n' {
			n, _ := f.Write([]byte{'\n'})
			w.size += int64(n)
		}
	}
	return nil
}

// Close closes the file. Call it when both Copy calls have returned.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	f := w.file
	w.file = nil
	return f.Close()
}

// Copy writes what r gives as entries of stream ("stdout" or "stderr") until r
// ends. A line that is not finished then is written as a part. When the log
// cannot be written (a full disk), its entries are dropped and said so once: a
// container must not stop because nobody can keep its words.
func (w *Writer) Copy(stream string, r io.Reader) error {
	buf := make([]byte, 0, maxLine)
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		rest := buf
		var out bytes.Buffer
		for {
			line, after, ok := bytes.Cut(rest, []byte{'\n'})
			if !ok {
				break
			}
			w.entry(&out, stream, 'F', line)
			rest = after
		}
		if len(rest) == maxLine || err != nil && len(rest) > 0 {
			w.entry(&out, stream, 'P', rest)
			rest = nil
		}
		buf = buf[:copy(buf[:cap(buf)], rest)]
		w.append(out.Bytes())
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (w *Writer) entry(out *bytes.Buffer, stream string, tag byte, content []byte) {
	out.WriteString(w.now().UTC().Format(timeFormat))
	out.WriteByte(' ')
	out.WriteString(stream)
	out.Write([]byte{' ', tag, ' '})
	out.Write(content)
	out.WriteByte('\n')
}

func (w *Writer) append(b []byte) {
	if len(b) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.appendLocked(b)
	if err != nil && !w.broken {
		w.log.Error("cannot write a container's log, entries are lost", "file", w.path, "error", err)
	}
	w.broken = err != nil
}

func (w *Writer) appendLocked(b []byte) error {
	if w.file == nil {
		if err := w.openLocked(); err != nil {
			return err
		}
	}
	if w.size > 0 && w.size+int64(len(b)) > w.maxBytes {
		if err := w.rotateLocked(); err != nil {
			return err
		}
	}
	n, err := w.file.Write(b)
	w.size += int64(n)
	return err
}

// rotateLocked sets the current file aside and drops the oldest.
func (w *Writer) rotateLocked() error {
	aside := w.path + "." + w.now().UTC().Format("20060102-150405.000000000")
	if err := os.Rename(w.path, aside); err != nil {
		return err
	}
	_ = w.file.Close()
	w.file = nil
	old, err := filepath.Glob(w.path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(old)
	var errs []error
	for len(old) > w.maxFiles-1 {
		errs = append(errs, os.Remove(old[0]))
		old = old[1:]
	}
	return errors.Join(append(errs, w.openLocked())...)
}
