package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// entry is what somebody wrote.
type entry struct {
	Name    string    `json:"name"`
	Message string    `json:"message"`
	At      time.Time `json:"at"` // set by the store
	Store   string    `json:"store,omitempty"`
}

// maxText is the most bytes of a name or a message.
const maxText = 500

func (e entry) check() error {
	switch {
	case e.Name == "" || e.Message == "":
		return errors.New("a name and a message are needed")
	case len(e.Name) > maxText || len(e.Message) > maxText:
		return fmt.Errorf("a name or a message is longer than %d bytes", maxText)
	}
	return nil
}

// store keeps entries in a file, a line of JSON each:
//
//	GET /entries    all, the oldest first
//	POST /entries   one more; it is on disk when this answers
type store struct {
	name string

	mu      sync.Mutex // protects all below
	file    *os.File
	size    int64 // of what is whole in it
	entries []entry
}

// openStore reads what is there. A last line that a crash cut short was never
// acknowledged, and is cut off.
func openStore(path string) (*store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	name, err := os.Hostname()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	s := &store{name: name, file: file}
	if err := s.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
	}
	return s, nil
}

func (s *store) read() error {
	lines := bufio.NewReader(s.file)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if err != nil { // the end, or a line without one
			return s.file.Truncate(s.size)
		}
		var e entry
		if err := json.Unmarshal(bytes.TrimSpace(line), &e); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		s.entries, s.size = append(s.entries, e), s.size+int64(len(line))
	}
}

// add writes an entry. Of one that could not be written nothing stays.
func (s *store) add(e entry) error {
	e.At, e.Store = time.Now().UTC(), s.name
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = s.file.WriteAt(line, s.size)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		return errors.Join(err, s.file.Truncate(s.size))
	}
	s.entries, s.size = append(s.entries, e), s.size+int64(len(line))
	return nil
}

func (s *store) all() []entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.entries)
}

// Close ends it.
func (s *store) Close() error { return s.file.Close() }

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "GET /healthz":
	case "GET /entries":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.all()) // an error is the client's having gone
	case "POST /entries":
		var e entry
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16*maxText)).Decode(&e); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := e.check(); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := s.add(e); err != nil {
			http.Error(w, err.Error(), http.StatusInsufficientStorage)
			return
		}
		w.WriteHeader(http.StatusCreated)
	default:
		http.NotFound(w, r)
	}
}
