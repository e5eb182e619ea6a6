package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// Recorder writes a history down.
type Recorder struct {
	began time.Time

	mu     sync.Mutex // protects what follows: the order of events is that of its holders
	out    *bufio.Writer
	file   *os.File
	events []Event
	err    error // the first failure to write
}

// Create begins a history in a new file.
func Create(path string) (*Recorder, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &Recorder{began: time.Now(), file: file, out: bufio.NewWriterSize(file, 1<<16)}, nil
}

// Began is the moment that times are counted from.
func (r *Recorder) Began() time.Time { return r.began }

// Record gives an event its place and time, writes it down and returns it.
func (r *Recorder) Record(e Event) Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Index, e.Time = int64(len(r.events))+1, int64(time.Since(r.began))
	r.events = append(r.events, e)
	line, err := json.Marshal(e)
	if err == nil {
		_, err = r.out.Write(append(line, '\n'))
	}
	if r.err == nil {
		r.err = err
	}
	return e
}

// Events is all that was recorded so far.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// Close ends the file, and tells if anything could not be written.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(r.err, r.out.Flush(), r.file.Close()); err != nil {
		return fmt.Errorf("write the history %s: %w", r.file.Name(), err)
	}
	return nil
}

// Load reads a history from its file.
func Load(path string) ([]Event, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	events, err := Read(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return events, nil
}

// Read reads a history. Its events must stand in their order.
func Read(in io.Reader) ([]Event, error) {
	var events []Event
	decoder := json.NewDecoder(bufio.NewReaderSize(in, 1<<16))
	decoder.DisallowUnknownFields()
	for {
		var e Event
		err := decoder.Decode(&e)
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", len(events)+1, err)
		}
		if e.Index != int64(len(events))+1 {
			return nil, fmt.Errorf("event %d says that it is event %d: the history was cut or put together", len(events)+1, e.Index)
		}
		events = append(events, e)
	}
}
