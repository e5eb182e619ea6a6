package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"kontiki/pki"
)

// TestTheWayToTheOwnAgent is within the process, and carries what the cluster port does; it ends with the agent.
func TestTheWayToTheOwnAgent(t *testing.T) {
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hijack" {
			conn, rw, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.CopyN(conn, rw, 1<<20)
				conn.Close()
			}
			return
		}
		_, _ = io.WriteString(w, "the agent")
	})}
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{id: pki.Identity{ID: "me"}}
	own := newOwnAgent()
	n.own.Store(own)
	served := make(chan error, 1)
	go func() { served <- serveAll(server, own, other) }()

	client := http.Client{Transport: n.agentTransport("me")}
	for range 3 {
		resp, err := client.Get("http://me/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != "the agent" {
			t.Errorf("%q, %v", body, err)
		}
	}
	conn, err := own.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	big := bytes.Repeat([]byte("x"), 1<<20)
	go func() {
		_, _ = io.Copy(conn, io.MultiReader(strings.NewReader("GET /hijack HTTP/1.1\r\nHost: me\r\n\r\n"), bytes.NewReader(big)))
	}()
	if back, err := io.ReadAll(conn); err != nil || !bytes.Equal(back, big) {
		t.Errorf("%d bytes came back, %v", len(back), err)
	}

	other.Close() // as the port does when the node stops; nothing serves any more
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the server ended with %v", err)
	}
	if _, err := own.Dial(t.Context()); !errors.Is(err, errNoAgent) {
		t.Errorf("dialled after the end: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newOwnAgent().Dial(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("dialled for nobody: %v", err)
	}
}
