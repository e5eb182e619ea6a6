package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// life is one process of a container, as its file tells it: a line of JSON, and a line
// with the time when it was there last, which is written in place.
type life struct {
	Name    string `json:"name"`
	Pod     string `json:"pod"`
	UID     string `json:"uid"`
	Node    string `json:"node"`
	Address string `json:"address"`
	Born    int64  `json:"born"`

	file *os.File
	at   int64 // of the second line
}

// between is how often a life says that it is there.
const between = 20 * time.Millisecond

// now is the machine's clock.
func now() int64 {
	var ts syscall.Timespec
	const monotonic = 1
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, monotonic, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic("witness: the machine has no clock: " + errno.Error())
	}
	return ts.Nano()
}

func beBorn() (*life, error) {
	address, err := ownAddress()
	if err != nil {
		return nil, err
	}
	l := &life{Name: os.Getenv("NAME"), Pod: os.Getenv("POD"), UID: os.Getenv("UID"), Node: os.Getenv("NODE"), Address: address, Born: now()}
	// The number of a Job's pod is among its environment, and no field of the pod.
	if index := os.Getenv("JOB_COMPLETION_INDEX"); index != "" {
		l.Name += "/" + index
	}
	if l.Name == "" {
		l.Name = address
	}
	line, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	l.at = int64(len(line)) + 1
	path := l.path(".life")
	if l.file, err = os.Create(path + ".new"); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(l.file, "%s\n%020d\n", line, l.Born); err != nil {
		return nil, err
	}
	return l, os.Rename(path+".new", path)
}

func dir() string { return os.Getenv("WITNESS_DIR") }

func (l *life) path(ext string) string {
	return filepath.Join(dir(), l.Pod+"."+strconv.FormatInt(l.Born, 10)+ext)
}

// sayHere says that the process is there until ctx ends.
func (l *life) sayHere(ctx context.Context) error {
	tick := time.NewTicker(between)
	defer tick.Stop()
	for {
		if _, err := l.file.WriteAt(fmt.Appendf(nil, "%020d", now()), l.at); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
