// Package section is how a program below bench/ begins and ends: its flags, how much it
// measures, where its rows go. The programs import it.
package section

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"kontiki/bench/report"
)

// Main parses the flags, -length and -json beside those that were defined, and runs a
// section in the extent asked for ("quick", "normal", "long"), until it has ended or
// an interrupt or SIGTERM ends its context. It ends the process with code 1 if run fails.
func Main[E any](extents map[string]E, run func(context.Context, E, *report.Report) error) {
	length := flag.String("length", "normal", "quick, normal or long")
	machine := flag.Bool("json", false, "write rows for the driver of the bench")
	flag.Parse()
	extent, ok := extents[*length]
	if !ok {
		fmt.Fprintf(os.Stderr, "bench: -length %s: use quick, normal or long\n", *length)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, extent, report.New(os.Stdout, *machine)); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// Pause waits, unless ctx ends before.
func Pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
