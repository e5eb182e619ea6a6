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

// ensure leaves a living shim behind, or says why there is none. One goroutine
// at a time looks and starts; the others find what it started.
func (c *Client) ensure(ctx context.Context) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	select {
	case c.starting <- struct{}{}:
		defer func() { <-c.starting }()
	case <-ctx.Done():
		return Info{}, fmt.Errorf("%w: another call is starting it: %w", ErrUnavailable, ctx.Err())
	}
	var info Info
	_, err := c.once(ctx, "Info", nil, &info)
	if errors.Is(err, ErrUnavailable) {
		return c.launch(ctx)
	}
	return info, err
}

// launch starts the program and waits for its answer. A shim that finds the
// folder's lock taken ends at once without an error: then the other one answers, or it is
// about to end itself, and another has to be started.
func (c *Client) launch(ctx context.Context) (Info, error) {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		ch, err := c.spawn()
		if err != nil {
			return Info{}, fmt.Errorf("%w: start %s: %w", ErrUnavailable, c.program, err)
		}
		if !c.keep(ch) {
			ch.forget()
			return Info{}, fmt.Errorf("shim: the client is closed: %w", ErrUnavailable)
		}
		c.cfg.Logger.Debug("started the shim", "pid", ch.pid, "program", c.program)
		info, err := c.await(ctx, ch.done)
		if err == nil {
			c.cfg.Logger.Info("the shim is up", "pid", info.PID)
			return info, nil
		}
		if ch.ended() {
			c.drop(ch)
			if !ch.failed && ctx.Err() == nil {
				paused, cancel := context.WithTimeout(ctx, pause)
				info, err := c.await(paused, nil)
				cancel()
				if err == nil {
					return info, nil
				}
				continue
			}
		}
		return Info{}, fmt.Errorf("%w: %s did not come up (%v); its log is %s", ErrUnavailable, c.program, err, filepath.Join(c.cfg.Dir, logName))
	}
}

// firstPause, doubled up to maxPause, is between starts while another shim holds the lock.
const (
	firstPause = 10 * time.Millisecond
	maxPause   = 500 * time.Millisecond
)

// await asks for the shim until it answers, done is closed (and one more try failed), or ctx has ended.
func (c *Client) await(ctx context.Context, done <-chan struct{}) (info Info, err error) {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	last := false
	for {
		if _, err = c.once(ctx, "Info", nil, &info); err == nil || last || ctx.Err() != nil {
			return info, err
		}
		select {
		case <-done:
			last = true
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
func (c *Client) upgrade(ctx context.Context, old Info) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	c.cfg.Logger.Info("upgrading the shim in place", "pid", old.PID, "from", old.Hash, "to", c.hash)
	_, err := c.once(ctx, "Upgrade", UpgradeBody{Program: c.program}, nil)
	var sent *sentError // the connection ends with the old program
	if err != nil && !errors.As(err, &sent) {
		return fmt.Errorf("shim: upgrade the one that runs (pid %d): %w", old.PID, err)
	}
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		var info Info
		_, err := c.once(ctx, "Info", nil, &info)
		if err == nil && info.Hash == c.hash {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: the shim (pid %d) did not come back as %s: %v", ErrUnavailable, old.PID, c.program, err)
		}
	}
}
