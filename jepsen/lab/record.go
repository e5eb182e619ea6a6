package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// record is what a lab writes down: what cannot be told from names. It is
// written when the lab stands, so a lab without one is what a crash left.
type record struct {
	Subnet netip.Prefix `json:"subnet"`
	Expect int          `json:"expect"` // founders of the cluster
	Beacon bool         `json:"beacon,omitempty"`
	Hosts  []hostRecord `json:"hosts"`
	Last   int          `json:"last"` // last byte of the address that was given out last
	Faults []Fault      `json:"faults,omitempty"`
	Binary string       `json:"binary"`
}

type hostRecord struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
}

// read takes over what is written down. Hosts that are known keep their identity.
func (l *Lab) read() error {
	data, err := os.ReadFile(l.recordPath())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lab %q: %w", l.cfg.Name, ErrNoLab)
	}
	if err != nil {
		return err
	}
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return fmt.Errorf("%s (remove this lab with: kontiki lab down --name %s): %w", l.recordPath(), l.cfg.Name, err)
	}
	l.subnet, l.expect, l.last, l.faults = rec.Subnet, rec.Expect, rec.Last, rec.Faults
	l.cfg.Beacon = rec.Beacon
	if l.cfg.Binary == "" {
		l.cfg.Binary = rec.Binary
	}
	known := l.hosts
	l.hosts = nil
	for _, r := range rec.Hosts {
		h := &Host{Name: r.Name, lab: l}
		if i := slices.IndexFunc(known, func(k *Host) bool { return k.Name == r.Name }); i >= 0 {
			h = known[i]
		}
		h.Addr = r.Address
		l.hosts = append(l.hosts, h)
	}
	return nil
}

func (l *Lab) write() error {
	rec := record{Subnet: l.subnet, Expect: l.expect, Beacon: l.cfg.Beacon, Last: l.last, Faults: l.faults, Binary: l.cfg.Binary}
	for _, h := range l.hosts {
		rec.Hosts = append(rec.Hosts, hostRecord{h.Name, h.Addr})
	}
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	tmp := l.recordPath() + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, l.recordPath())
}

// change changes what is written down, alone among the processes that use this
// lab, and then brings it about. A crash between the two leaves a record that is
// ahead of the hosts; doing the same again, or healing, mends that.
func (l *Lab) change(record, act func() error) error {
	unlock, err := lock(l.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lab %q: %w", l.cfg.Name, ErrNoLab)
	}
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.read(); err != nil {
		return err
	}
	if err := record(); err != nil {
		return err
	}
	if err := l.write(); err != nil {
		return err
	}
	return act()
}

// lockLabs is held while what labs share is made or removed: the choice of a
// subnet, and the folders around all labs.
func lockLabs() (unlock func(), err error) {
	for {
		if err := os.MkdirAll(pinRoot, 0o755); err != nil {
			return nil, err
		}
		unlock, err := lock(pinRoot)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed with the last lab, just now
		}
		return unlock, err
	}
}

// lock locks a directory. The lock goes with the process that holds it.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	held, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	// Who held the lock before may have removed the directory.
	if now, err := os.Stat(dir); err != nil || !os.SameFile(held, now) {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, fs.ErrNotExist)
	}
	return func() { f.Close() }, nil
}

// removeShared removes the folders around all labs after the last one.
func (l *Lab) removeShared() error {
	unlock, err := lockLabs()
	if err != nil {
		return err
	}
	defer unlock()
	for _, dir := range []string{filepath.Clean(l.cfg.Root), pinRoot} {
		if err := os.Remove(dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
