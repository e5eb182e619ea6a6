package pki

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestClockOfAMachineThatWakesUpIn1970(t *testing.T) {
	synctest.Test(t, wakesUpIn1970)
}

func wakesUpIn1970(t *testing.T) {
	dir := t.TempDir()
	machine := time.Date(2027, 5, 1, 12, 0, 0, 0, time.UTC)
	open := func() *Clock {
		t.Helper()
		c, err := OpenClock(dir, func() time.Time { return machine })
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	right := open()
	if !right.Now().Equal(machine) || right.Behind() != 0 {
		t.Errorf("a right clock shows %v, behind %v", right.Now(), right.Behind())
	}
	if right.Follow(machine.AddDate(60, 0, 0)) || !right.Now().Equal(machine) {
		t.Error("a right clock followed a peer into the future")
	}
	if err := right.Store(); err != nil {
		t.Fatal(err)
	}
	stopped := machine

	machine = time.Unix(30, 0)
	woken := open()
	if !woken.Now().Equal(stopped) || woken.Behind() == 0 {
		t.Errorf("after a start in 1970 it shows %v, behind %v; want %v", woken.Now(), woken.Behind(), stopped)
	}
	time.Sleep(time.Hour)
	machine = machine.Add(time.Hour)
	if want := stopped.Add(time.Hour); !woken.Now().Equal(want) {
		t.Errorf("an hour later it shows %v, want %v", woken.Now(), want)
	}
	peer := stopped.AddDate(0, 4, 0)
	if !woken.Follow(peer) || !woken.Now().Equal(peer) {
		t.Errorf("after a peer said %v it shows %v", peer, woken.Now())
	}
	if err := woken.Store(); err != nil {
		t.Fatal(err)
	}
	if again := open(); !again.Now().Equal(peer) {
		t.Errorf("after another start it shows %v, want %v", again.Now(), peer)
	}
	machine = peer.AddDate(0, 1, 0) // the time server answers
	if !woken.Now().Equal(machine) || woken.Behind() != 0 {
		t.Errorf("a clock that was set shows %v, want %v", woken.Now(), machine)
	}
}

// A clock that was ahead when the node began, as one that holds local time, and is then set
// right by a time server: the next process does not begin in the future.
func TestClockThatWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		right := time.Date(2027, 5, 1, 12, 0, 0, 0, time.UTC)
		machine := right
		open := func() *Clock {
			t.Helper()
			c, err := OpenClock(dir, func() time.Time { return machine })
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		store := func(c *Clock) {
			t.Helper()
			if err := c.Store(); err != nil {
				t.Fatal(err)
			}
		}
		store(open())
		machine = right.Add(9 * time.Hour)
		c := open()
		store(c)
		machine = right.Add(time.Minute)
		store(c)
		if again := open(); !again.Now().Equal(machine) || again.Behind() != 0 {
			t.Errorf("once the clock is right, a start shows %v, behind by %v; want %v", again.Now(), again.Behind(), machine)
		}
		// Set back beyond what is known to have passed, it is wrong, and takes nothing back.
		machine = right.Add(time.Hour)
		store(c)
		machine = time.Unix(0, 0)
		store(c)
		if again := open(); !again.Now().Equal(right.Add(time.Hour)) {
			t.Errorf("after a fall to 1970, a start shows %v, want %v", again.Now(), right.Add(time.Hour))
		}
	})
}

func TestClockOfABlankMachine(t *testing.T) {
	c, err := OpenClock(t.TempDir(), func() time.Time { return time.Unix(0, 0) })
	if err != nil {
		t.Fatal(err)
	}
	if now := c.Now(); now.Before(release) || now.After(release.Add(time.Hour)) {
		t.Errorf("it shows %v, want the release %v", c.Now(), release)
	}
}

func TestClockFileThatIsNoTime(t *testing.T) {
	dir := t.TempDir()
	c, err := OpenClock(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Store(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.path, []byte("noon"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenClock(dir, time.Now); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("got %v, want an error that says what to do", err)
	}
}
