package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"time"

	"kontiki/bench/lab"
)

// attempt is one connection, as a client on a host tells of it.
type attempt struct {
	Began time.Time
	Pod   string // that answered
	Error string // when none did
}

const (
	pace = 20 * time.Millisecond // between the beginnings of attempts
	// patience is less than a second: what was lost is sent again by then, and may find another way.
	patience = 900 * time.Millisecond
)

// ask connects to a URL of the example web again and again, and tells of each attempt in a line of
// JSON, until in ends.
func ask(url string, in io.Reader, out io.Writer) error {
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, in)
		ended <- err
	}()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	var asking sync.WaitGroup
	defer asking.Wait()
	var mu sync.Mutex // one line at a time
	lines := json.NewEncoder(out)
	ticks := time.NewTicker(pace)
	defer ticks.Stop()
	failed := make(chan error, 1)
	for {
		select {
		case err := <-ended:
			return err
		case err := <-failed:
			return err
		case <-ticks.C:
		}
		asking.Go(func() {
			a := attempt{Began: time.Now()}
			var err error
			if a.Pod, err = who(client, url); err != nil {
				a.Error = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			if err := lines.Encode(a); err != nil {
				select {
				case failed <- err:
				default: // told already
				}
			}
		})
	}
}

// who says which pod answers.
func who(client *http.Client, url string) (pod string, err error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := fmt.Fscanf(resp.Body, "pod=%s", &pod); err != nil {
		return "", fmt.Errorf("%s answers %s: %w", url, resp.Status, err)
	}
	return pod, nil
}

// client is a process on a host that asks, and what it has told.
type client struct {
	host string
	cmd  *exec.Cmd
	in   io.Closer // until it is closed
	read chan error

	mu  sync.Mutex // protects all
	all []attempt
}

// startClient has this program ask a URL on a host.
func startClient(l *lab.Lab, host, url string) (*client, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &client{host: host, cmd: l.Command(host, self, "ask", url), read: make(chan error, 1)}
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { c.read <- c.listen(out) }()
	return c, nil
}

func (c *client) listen(out io.Reader) error {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var a attempt
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return fmt.Errorf("the client on %s wrote %q: %w", c.host, lines.Text(), err)
		}
		c.mu.Lock()
		c.all = append(c.all, a)
		c.mu.Unlock()
	}
	return lines.Err()
}

// stop ends it and waits until it is gone.
func (c *client) stop() error {
	return errors.Join(c.in.Close(), <-c.read, c.cmd.Wait())
}

// heard says whether a pod has answered.
func (c *client) heard(pod string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.all {
		if a.Pod == pod {
			return true
		}
	}
	return false
}

// lost is when the last attempt of those since a time began that nobody answered, or that went to a
// pod that is no more; zero when there is none.
func (c *client) lost(since time.Time, pod string) (last time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.all {
		if !a.Began.Before(since) && (a.Error != "" || a.Pod == pod) && a.Began.After(last) {
			last = a.Began
		}
	}
	return last
}
