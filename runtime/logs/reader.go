package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Options choose what Read gives, as PodLogOptions do.
type Options struct {
	Follow     bool
	Tail       int64     // last entries only; negative: all
	Since      time.Time // entries from then on; zero: all
	Timestamps bool
	LimitBytes int64  // of output; 0: no limit
	Stream     string // "stdout" or "stderr" only; empty: both
}

// followInterval is how often a follower looks for more. Nobody following costs nothing.
const followInterval = 100 * time.Millisecond

var errLimit = errors.New("log limit reached")

// Read writes the entries of the log at path to w, without their CRI prefix.
// With Follow it goes on until ctx ends or running says that no more will come.
// A log that does not exist yet is an error, unless followed.
func Read(ctx context.Context, path string, opts Options, running func() bool, w io.Writer) error {
	f, err := openLog(ctx, path, opts.Follow, running)
	if err != nil || f == nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if opts.Tail >= 0 {
		at, err := tailOffset(f, opts.Tail)
		if err != nil {
			return fmt.Errorf("read container log: %w", err)
		}
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return err
		}
	}
	c := &copier{opts: opts, w: w}
	for {
		// Asked before the read: what was written up to the end is then read.
		more := opts.Follow && running()
		err := c.drain(f)
		if errors.Is(err, errLimit) {
			return nil
		}
		if err != nil {
			return err
		}
		if next := rotated(f, path); next != nil {
			// Entries written between the drain and the rename are still in the old file.
			if err := c.drain(f); err != nil {
				_ = next.Close()
				return ignoreLimit(err)
			}
			_ = f.Close()
			f, c.partial = next, nil
			continue
		}
		if !more {
			return nil
		}
		if fl, ok := w.(interface{ Flush() }); ok {
			fl.Flush()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followInterval):
		}
	}
}

func ignoreLimit(err error) error {
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

func openLog(ctx context.Context, path string, wait bool, running func() bool) (*os.File, error) {
	for {
		f, err := os.Open(path)
		if err == nil || !errors.Is(err, os.ErrNotExist) || !wait || !running() {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(followInterval):
		}
	}
}

// rotated returns the new current file when f is no longer it.
func rotated(f *os.File, path string) *os.File {
	mine, err := f.Stat()
	if err != nil {
		return nil
	}
	now, err := os.Open(path)
	if err != nil {
		return nil
	}
	fi, err := now.Stat()
	if err != nil || os.SameFile(mine, fi) {
		_ = now.Close()
		return nil
	}
	return now
}

// copier turns entries into output.
type copier struct {
	opts    Options
	w       io.Writer
	written int64
	partial []byte // an entry whose end was not there yet
}

func (c *copier) drain(r io.Reader) error {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := br.ReadBytes('\n')
		line = append(c.partial, line...)
		c.partial = nil
		if err == io.EOF {
			c.partial = line
			return nil
		}
		if err != nil {
			return fmt.Errorf("read container log: %w", err)
		}
		if err := c.entry(line); err != nil {
			return err
		}
	}
}

func (c *copier) entry(line []byte) error {
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	stream, rest, ok2 := bytes.Cut(rest, []byte{' '})
	tag, content, ok3 := bytes.Cut(rest, []byte{' '})
	if !ok || !ok2 || !ok3 {
		return nil // torn by a crash
	}
	if c.opts.Stream != "" && string(stream) != c.opts.Stream {
		return nil
	}
	if !c.opts.Since.IsZero() {
		at, err := time.Parse(time.RFC3339Nano, string(stamp))
		if err != nil || at.Before(c.opts.Since) {
			return nil
		}
	}
	if len(tag) > 0 && tag[0] == 'P' {
		content = bytes.TrimSuffix(content, []byte{'\n'})
	}
	if c.opts.Timestamps {
		content = append(append(append([]byte{}, stamp...), ' '), content...)
	}
	if c.opts.LimitBytes > 0 && c.written+int64(len(content)) >= c.opts.LimitBytes {
		_, err := c.w.Write(content[:c.opts.LimitBytes-c.written])
		return errors.Join(err, errLimit)
	}
	n, err := c.w.Write(content)
	c.written += int64(n)
	return err
}

// tailOffset finds where the last n entries begin, reading from the end.
func tailOffset(f io.ReadSeeker, n int64) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return end, err
	}
	buf := make([]byte, 64<<10)
	for at, skipLast := end, true; at > 0; {
		size := min(at, int64(len(buf)))
		at -= size
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(f, buf[:size]); err != nil {
			return 0, err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' {
				skipLast = false
				continue
			}
			if skipLast { // ends the last entry, begins none
				skipLast = false
				continue
			}
			if n--; n == 0 {
				return at + i + 1, nil
			}
		}
	}
	return 0, nil
}
