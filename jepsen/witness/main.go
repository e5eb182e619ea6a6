// Command witness runs in the containers of a proof and tells what they saw, not over
// the network that is under proof but in files of a folder that it shares with all
// containers of the proof and with the machine they run on. All times are of the one
// clock of that machine (CLOCK_MONOTONIC), in nanoseconds.
//
//	witness live [DURATION]  is there: as long as it runs it says so, many times a second.
//	                         It ends with 0 after the duration; asked to end, it takes some time
//	witness reach SERVICE    is there, answers on port 7000, and asks all others of its folder
//	                         and the Service by its name, again and again
//
// WITNESS_DIR is the folder; POD, UID, NODE and NAME are who it is. NAME is what nobody
// else may be at the same time, and its address if that is empty.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	err := errors.New("use: witness live [DURATION] | witness reach SERVICE")
	switch {
	case len(os.Args) >= 2 && os.Args[1] == "live":
		err = live(ctx, os.Args[2:])
	case len(os.Args) == 3 && os.Args[1] == "reach":
		err = reach(ctx, os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "witness:", err)
		os.Exit(1)
	}
}

// linger is for how long a witness goes on that was asked to end: who takes its place
// too early is seen.
const linger = 700 * time.Millisecond

func live(ctx context.Context, args []string) error {
	l, err := beBorn()
	if err != nil {
		return err
	}
	going := context.WithoutCancel(ctx)
	over := make(<-chan time.Time)
	if len(args) == 1 {
		d, err := time.ParseDuration(args[0])
		if err != nil {
			return err
		}
		over = time.After(d)
	}
	going, stop := context.WithCancel(going)
	defer stop()
	said := make(chan error, 1)
	go func() { said <- l.sayHere(going) }()
	select {
	case err := <-said:
		return err
	case <-over:
	case <-ctx.Done():
		select {
		case err := <-said:
			return err
		case <-time.After(linger):
		}
	}
	stop()
	return <-said
}

// ownAddress is the pod's address.
func ownAddress() (string, error) {
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return "", err
	}
	addrs, err := eth0.Addrs()
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if p, ok := a.(*net.IPNet); ok && p.IP.To4() != nil {
			return p.IP.String(), nil
		}
	}
	return "", errors.New("eth0 has no IPv4 address")
}
