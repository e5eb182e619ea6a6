package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// startWait bounds how long a started shim may take until it answers: it adopts
// every container of the node first. retryEvery is the pace of asking.
const (
	startWait  = 20 * time.Second
	retryEvery = 5 * time.Millisecond
)

// logName is the file in Dir that gets the shim's standard error; it starts
// empty again above logLimit.
const (
	logName  = "shim.log"
	logLimit = 1 << 20
)

// ensure leaves a living shim of this client's program behind, or says why there is none.
func (c *Client) ensure(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return fmt.Errorf("shim: the client is closed: %w", ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	var info Info
	_, err := c.once(ctx, "Info", nil, &info)
	if err != nil {
		if !errors.Is(err, ErrUnavailable) {
			return err
		}
		if info, err = c.launch(ctx); err != nil {
			return err
		}
	}
	if info.Hash != c.hash {
		if info, err = c.upgrade(ctx, info); err != nil {
			return err
		}
	}
	removeOldPrograms(c.cfg.Dir, c.program)
	return nil
}

// launch starts the program and waits for its answer. When two clients do so
// at once, one shim takes the folder's lock and the other ends; both clients reach the first.
func (c *Client) launch(ctx context.Context) (Info, error) {
	ch, err := c.spawn()
	if err != nil {
		return Info{}, fmt.Errorf("%w: start %s: %w", ErrUnavailable, c.program, err)
	}
	c.children = append(c.children, ch)
	c.cfg.Logger.Info("started the shim", "pid", ch.pid, "program", c.program)
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	gone := false
	for {
		var info Info
		_, err := c.once(ctx, "Info", nil, &info)
		if err == nil {
			return info, nil
		}
		if gone || ctx.Err() != nil {
			return Info{}, fmt.Errorf("%w: %s did not come up (%v); its log is %s", ErrUnavailable, c.program, err, filepath.Join(c.cfg.Dir, logName))
		}
		select {
		case <-ch.done: // one more try: the shim that kept it from starting answers
			gone = ch.failed
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// spawn starts the program in a session of its own, with nothing of ours but its
// log, so that neither our end nor our terminal's ends it. (It leaves our cgroup by itself.)
func (c *Client) spawn() (*child, error) {
	logPath := filepath.Join(c.cfg.Dir, logName)
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if st, err := os.Stat(logPath); err == nil && st.Size() > logLimit {
		flags |= os.O_TRUNC
	}
	log, err := os.OpenFile(logPath, flags, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	proc, err := os.StartProcess(c.program, []string{"kontiki-shim", "--dir", c.cfg.Dir, "--cgroup-root", c.cfg.CgroupRoot}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Files: []*os.File{null, log, log},
		Sys:   &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, err
	}
	return watchChild(proc)
}

// upgrade makes a shim of another build execute our program in its place.
func (c *Client) upgrade(ctx context.Context, old Info) (Info, error) {
	c.cfg.Logger.Info("upgrading the shim in place", "pid", old.PID, "from", old.Hash, "to", c.hash)
	_, err := c.once(ctx, "Upgrade", UpgradeBody{Program: c.program}, nil)
	var sent *sentError // the connection ends with the old program
	if err != nil && !errors.As(err, &sent) {
		return Info{}, fmt.Errorf("shim: upgrade the one that runs (pid %d): %w", old.PID, err)
	}
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		var info Info
		_, err := c.once(ctx, "Info", nil, &info)
		if err == nil && info.Hash == c.hash {
			return info, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return Info{}, fmt.Errorf("%w: the shim (pid %d) did not come back as %s: %v", ErrUnavailable, old.PID, c.program, err)
		}
	}
}
