// Command web is the example that the first Deployment runs: it says which pod
// answered, and asks other pods when told to, so that one can look at the
// network from inside.
//
//	GET /               the pod's name and address
//	GET /dial?url=URL   what URL answers to this pod
//	GET /crash          nothing: the program ends with exit code 3
//
// Called as "web exit CODE" it ends at once, as the pods of a Job do.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "exit" {
		code, err := strconv.Atoi(os.Args[2])
		if err != nil {
			fmt.Fprintf(os.Stderr, "web: %q is no exit code: give a number\n", os.Args[2])
			os.Exit(2)
		}
		fmt.Println("web: exits with", code)
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := serve(ctx, ":8080"); err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, address string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", greet)
	mux.HandleFunc("GET /dial", dial)
	mux.HandleFunc("GET /crash", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	fmt.Println("web: listening on", address)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	fmt.Println("web: asked to stop")
	grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return server.Shutdown(grace)
}

func greet(w http.ResponseWriter, r *http.Request) {
	name, err := os.Hostname()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	fmt.Printf("web: %s asked for %s\n", r.RemoteAddr, r.URL)
	fmt.Fprintf(w, "pod=%s address=%s client=%s\n", name, local, r.RemoteAddr)
}

// dial fetches a URL on a connection of its own, so that every call is balanced anew.
func dial(w http.ResponseWriter, r *http.Request) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(r.URL.Query().Get("url"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(w, io.LimitReader(resp.Body, 1<<20)); err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
	}
}
