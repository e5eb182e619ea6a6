package port

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kontiki/pki"
)

type host struct {
	*Port
	id pki.Identity
}

// newHost runs a port on loopback until the test ends.
func newHost(t *testing.T, secret pki.Secret, trust *pki.Trust) host {
	t.Helper()
	id, err := pki.LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := Listen(Config{Address: "127.0.0.1:0", Identity: id, Secret: secret, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if trust != nil {
		cert, err := trust.Authority.Node(id, "n", nil, nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		p.SetMembership(Membership{Authority: trust.Authority, Cert: cert})
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return host{p, id}
}

// echo serves one connection of a protocol: what is sent comes back.
func echo(t *testing.T, l net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.Copy(conn, conn)
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

func roundTrip(t *testing.T, conn net.Conn) {
	t.Helper()
	defer conn.Close()
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "ping" {
		t.Fatalf("echo: %q, %v", got, err)
	}
}

func newTrust(t *testing.T) *pki.Trust {
	t.Helper()
	trust, err := pki.NewTrust(pki.NewID(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func TestProvenProtocolNeedsTheSecret(t *testing.T) {
	defer goleak.VerifyNone(t)
	t.Run("same", func(t *testing.T) {
		secret := pki.NewSecret()
		a, b := newHost(t, secret, nil), newHost(t, secret, nil)
		echo(t, b.Listener(Ring))
		conn, err := a.DialProven(t.Context(), Ring, b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, conn)
	})
	t.Run("other", func(t *testing.T) {
		a, b := newHost(t, pki.NewSecret(), nil), newHost(t, pki.NewSecret(), nil)
		echo(t, b.Listener(Ring))
		if _, err := a.DialProven(t.Context(), Ring, b.Addr().String()); !errors.Is(err, pki.ErrWrongSecret) {
			t.Fatalf("dial with another secret: %v, want ErrWrongSecret", err)
		}
	})
}

func TestMemberProtocolNeedsTheClusterAndTheNode(t *testing.T) {
	secret, trust := pki.NewSecret(), newTrust(t)
	a, b := newHost(t, secret, trust), newHost(t, secret, trust)
	echo(t, b.Listener(Raft))
	conn, err := a.DialMember(t.Context(), Raft, b.id.ID, b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, conn)

	if _, err := a.DialMember(t.Context(), Raft, pki.NewID(), b.Addr().String()); err == nil || !strings.Contains(err.Error(), b.id.ID) {
		t.Fatalf("dial of another node's id: %v, want an error that names who answered", err)
	}
	stranger := newHost(t, secret, newTrust(t))
	if _, err := stranger.DialMember(t.Context(), Raft, b.id.ID, b.Addr().String()); err == nil {
		t.Fatal("a node of another cluster was let in")
	}
	blank := newHost(t, secret, nil)
	if _, err := blank.DialMember(t.Context(), Raft, b.id.ID, b.Addr().String()); !errors.Is(err, ErrNoMember) {
		t.Fatalf("a blank node dialled a member protocol: %v, want ErrNoMember", err)
	}
}

func TestAPIAsksForButDoesNotJudgeClientCertificates(t *testing.T) {
	trust := newTrust(t)
	h := newHost(t, pki.NewSecret(), trust)
	for _, protos := range [][]string{{"h2"}, {"http/1.1"}, nil} {
		echoed := h.Listener(API)
		go func() {
			if conn, err := echoed.Accept(); err == nil {
				io.Copy(conn, conn)
				conn.Close()
			}
		}()
		conn, err := tls.Dial("tcp", h.Addr().String(), &tls.Config{RootCAs: trust.Authority.Pool(), ServerName: "n", NextProtos: protos})
		if err != nil {
			t.Fatalf("%v: %v", protos, err)
		}
		roundTrip(t, conn)
	}
}
