// Command guestbook is the example that make up starts: a page with a form, and a store
// that keeps what people write into it, as an application of a few common parts would.
//
//	guestbook page           the web page: a Deployment behind a Service and a node port
//	guestbook store          what people wrote, on a volume: a StatefulSet
//	guestbook greet          signs the book for this node once, and stays: a DaemonSet
//	guestbook sign MESSAGE   signs the book and ends: a Job, a CronJob
//
// A page spreads entries over the stores by the name of who wrote them, and reads from all.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const usage = "usage: guestbook page|store|greet, or guestbook sign MESSAGE"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guestbook:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "page":
		stores := strings.Fields(os.Getenv("STORES"))
		if len(stores) == 0 {
			return errors.New("STORES is empty: name the stores' URLs, with spaces between them")
		}
		return serve(ctx, newPage(stores))
	case len(args) == 1 && args[0] == "store":
		s, err := openStore("/data/entries")
		if err != nil {
			return err
		}
		return errors.Join(serve(ctx, s), s.Close())
	case len(args) == 1 && args[0] == "greet":
		if err := sign(ctx, os.Getenv("NODE"), "This node is here."); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	case len(args) == 2 && args[0] == "sign":
		return sign(ctx, os.Getenv("NAME"), args[1])
	}
	return errors.New(usage)
}

// serve answers on port 8080 until ctx ends, and then finishes what was asked.
func serve(ctx context.Context, h http.Handler) error {
	server := &http.Server{Addr: ":8080", Handler: h, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	fmt.Println("guestbook: listening on", server.Addr)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return server.Shutdown(grace)
}
