package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	port = "7000"
	// askTime bounds one question: a packet that is lost is sent again after one and
	// after three seconds.
	askTime = 5 * time.Second
	askPace = 200 * time.Millisecond
)

// asked is a question and what came of it, as the file of questions tells it, a line each.
type asked struct {
	To     string `json:"to"` // a pod, or the Service's name
	Began  int64  `json:"began"`
	Ended  int64  `json:"ended"`
	By     string `json:"by,omitempty"` // the pod that answered
	Failed string `json:"failed,omitempty"`
}

func reach(ctx context.Context, service string) error {
	l, err := beBorn()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp4", ":"+port)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(l.path(".asked"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	going, stop := context.WithCancelCause(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	do := func(act func() error) {
		all.Go(func() {
			if err := act(); err != nil {
				stop(err)
			}
		})
	}
	do(func() error { return l.sayHere(going) })
	do(func() error { return answer(going, listener, l.Pod) })
	do(func() error { return askAll(going, out, service, service) })
	do(func() error { return l.askOthers(going, out, do) })
	<-going.Done()
	listener.Close()
	if ctx.Err() == nil {
		return context.Cause(going)
	}
	return nil
}

// answer tells whoever asks the pod's name.
func answer(ctx context.Context, listener net.Listener, pod string) error {
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(askTime))
			fmt.Fprintln(conn, pod)
		}()
	}
}

// askOthers begins to ask each pod of which there is a life.
func (l *life) askOthers(ctx context.Context, out *os.File, do func(func() error)) error {
	known := map[string]bool{l.Pod: true}
	tick := time.NewTicker(askPace)
	defer tick.Stop()
	for {
		files, err := filepath.Glob(filepath.Join(dir(), "*.life"))
		if err != nil {
			return err
		}
		for _, path := range files {
			other, err := readLife(path)
			if err != nil {
				return err
			}
			if !known[other.Pod] {
				known[other.Pod] = true
				do(func() error { return askAll(ctx, out, other.Pod, other.Address) })
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func readLife(path string) (l life, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return l, err
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return l, json.Unmarshal(line, &l)
}

// askAll asks one again and again and writes down what came of it.
func askAll(ctx context.Context, out *os.File, name, address string) error {
	tick := time.NewTicker(askPace)
	defer tick.Stop()
	for {
		a := asked{To: name, Began: now()}
		by, err := ask(ctx, address)
		if ctx.Err() != nil {
			return nil
		}
		a.By, a.Ended = by, now()
		if err != nil {
			a.Failed = err.Error()
		}
		line, err := json.Marshal(a)
		if err != nil {
			return err
		}
		if _, err := out.Write(append(line, '\n')); err != nil { // at once: others write there, too
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func ask(ctx context.Context, address string) (by string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp4", net.JoinHostPort(address, port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	until, _ := ctx.Deadline()
	conn.SetDeadline(until)
	if _, err := fmt.Fscanln(conn, &by); err != nil {
		return "", errors.Join(fmt.Errorf("no answer from %s", conn.RemoteAddr()), err)
	}
	return by, nil
}
