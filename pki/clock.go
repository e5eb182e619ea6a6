package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// release is a time before which no clock can be right.
var release = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Clock is a machine's clock that is never before the newest time that is known to
// have passed, for machines that wake up in 1970. From there on it goes at the
// machine's pace, so that certificates are made and checked in order. It is safe for
// concurrent use.
type Clock struct {
	path    string
	machine func() time.Time

	mu     sync.Mutex // protects what follows
	floor  time.Time  // it was at least this
	from   time.Time  // when floor was set; only its monotonic reading means something
	stored time.Time
}

// OpenClock reads the newest time stored in dir. machine is the machine's clock.
func OpenClock(dir string, machine func() time.Time) (*Clock, error) {
	c := &Clock{path: filepath.Join(dir, "pki", "clock"), machine: machine, floor: release, from: time.Now()}
	data, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	if c.stored, err = time.Parse(time.RFC3339, strings.TrimSpace(string(data))); err != nil {
		return nil, fmt.Errorf("%s holds no time (RFC 3339): %w; delete it if the machine's clock is right", c.path, err)
	}
	c.Raise(c.stored)
	return c, nil
}

// Now is the machine's time, or a later one if the machine's is known to be wrong.
func (c *Clock) Now() time.Time {
	now, _ := c.read()
	return now
}

// Behind tells by how much the machine's clock is known to be wrong; 0 if it is not.
func (c *Clock) Behind() time.Duration {
	_, behind := c.read()
	return behind
}

func (c *Clock) read() (now time.Time, behind time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now = c.machine()
	if least := c.floor.Add(time.Since(c.from)); now.Before(least) {
		return least, least.Sub(now)
	}
	return now, 0
}

// Raise tells that a time has certainly passed.
func (c *Clock) Raise(t time.Time) {
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(now) {
		c.floor, c.from = t, time.Now()
	}
}

// Follow takes a time from a trusted peer whose clock is ahead, which is believed
// only while the own clock is known to be wrong. It reports whether it was.
func (c *Clock) Follow(t time.Time) bool {
	if c.Behind() == 0 {
		return false
	}
	c.Raise(t)
	return true
}

// Store makes the present time the least that the next process starts from. It is
// called on rare occasions, since it writes. A time that was stored while the machine's clock
// was ahead is taken back once that was set right in the same process; a later one cannot know
// that the stored time never was.
func (c *Clock) Store() error {
	now, behind := c.read()
	now = now.UTC().Truncate(time.Second)
	c.mu.Lock()
	defer c.mu.Unlock()
	if setBack := behind == 0 && now.Before(c.stored); !now.After(c.stored) && !setBack {
		return nil
	}
	if err := WriteFile(c.path, []byte(now.Format(time.RFC3339)+"\n")); err != nil {
		return err
	}
	c.stored = now
	return nil
}
