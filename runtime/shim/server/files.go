package server

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"kontiki/runtime/shim"
)

// layout is the folder on disk; DESIGN.md lists it.
type layout struct{ dir string }

func (l layout) lock() string                   { return filepath.Join(l.dir, "lock") }
func (l layout) socket() string                 { return filepath.Join(l.dir, shim.SocketName) }
func (l layout) sandboxes() string              { return filepath.Join(l.dir, "sandboxes") }
func (l layout) sandbox(id string) string       { return filepath.Join(l.sandboxes(), id) }
func (l layout) containers() string             { return filepath.Join(l.dir, "containers") }
func (l layout) container(id string) string     { return filepath.Join(l.containers(), id) }
func (l layout) record(id string) string        { return filepath.Join(l.container(id), "container.json") }
func (l layout) keptExit(id string) string      { return filepath.Join(l.container(id), "exit.json") }
func (l layout) execs(id string) string         { return filepath.Join(l.container(id), "execs") }
func (l layout) exec(id, exec string) string    { return filepath.Join(l.execs(id), exec+".json") }
func (l layout) fifo(id, stream string) string  { return filepath.Join(l.container(id), stream) }
func (l layout) exits() string                  { return filepath.Join(l.dir, "exits") }
func (l layout) exit(id string) string          { return filepath.Join(l.exits(), id+".json") }
func (l layout) libcontainer() string           { return filepath.Join(l.dir, "state") }
func (l layout) libcontainerOf(i string) string { return filepath.Join(l.libcontainer(), i) }

// writeJSON replaces a file in one step. It does not sync: a file protects
// against the end of the shim; when the machine ends, so do the containers it tells of.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// checkID refuses ids that could name another file, or are too long for one.
func checkID(what, id string) error {
	if id == "" || len(id) > 128 || id[0] == '.' {
		return fmt.Errorf("%s id %q must have 1 to 128 characters and not begin with a dot: %w", what, id, shim.ErrInvalid)
	}
	for _, r := range id {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-', r == '.':
		default:
			return fmt.Errorf("%s id %q may hold letters, digits, '_', '-' and '.' only: %w", what, id, shim.ErrInvalid)
		}
	}
	return nil
}
