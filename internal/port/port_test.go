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
func newHost(t *testing.T, secret pki.Secret, trust *pki.Trust, change ...func(*Config)) host {
	t.Helper()
	id, err := pki.LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Address: "127.0.0.1:0", Identity: id, Secrets: pki.Secrets{secret}, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	p, err := Listen(cfg)
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

// TestSecretsChange has two nodes go through a change of the join secret, never both
// at one time, and a third that knows the old one alone.
func TestSecretsChange(t *testing.T) {
	before, after := pki.NewSecret(), pki.NewSecret()
	a, b, late := newHost(t, before, nil), newHost(t, before, nil), newHost(t, before, nil)
	meet := func(from, to host) error {
		conn, err := from.DialProven(t.Context(), Ring, to.Addr().String())
		if err == nil {
			conn.Close()
		}
		return err
	}
	for _, secrets := range []pki.Secrets{{before, after}, {after, before}, {after}} {
		for _, h := range []host{a, b} {
			h.SetSecrets(secrets)
			if err := errors.Join(meet(a, b), meet(b, a)); err != nil {
				t.Errorf("with %d secrets: %v", len(secrets), err)
			}
		}
		err := errors.Join(meet(late, a), meet(a, late))
		if known := len(secrets) == 2; known != (err == nil) {
			t.Errorf("a node with the old secret, while %d are accepted: %v", len(secrets), err)
		}
	}
}

// TestBarredMemberHearsWhy has a member that was shut out ask for the join secret: the
// one protocol that is left to it, whose server knows who asks.
func TestBarredMemberHearsWhy(t *testing.T) {
	secret, trust := pki.NewSecret(), newTrust(t)
	a, b := newHost(t, secret, trust), newHost(t, secret, trust)
	b.Bar([]string{a.id.ID})
	conn, err := a.DialMember(t.Context(), Secret, "", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	asked, err := b.Listener(Secret).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer asked.Close()
	if got := asked.(Guest).NodeID(); got != a.id.ID {
		t.Errorf("asked by %s, want %s", got, a.id.ID)
	}
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

func TestBarredMemberIsShutOut(t *testing.T) {
	secret, trust := pki.NewSecret(), newTrust(t)
	a, b := newHost(t, secret, trust), newHost(t, secret, trust)
	echo(t, b.Listener(Raft))
	conn, err := a.DialMember(t.Context(), Raft, b.id.ID, b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	b.Bar([]string{a.id.ID})
	conn.SetReadDeadline(time.Now().Add(handshakeTimeout))
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("read on a connection of a barred member: %d, %v; want its end", n, err)
	}
	if _, err := b.DialMember(t.Context(), Raft, a.id.ID, a.Addr().String()); !errors.Is(err, ErrBarred) {
		t.Fatalf("dial of a barred member: %v, want ErrBarred", err)
	}
	again, err := a.DialMember(t.Context(), Raft, b.id.ID, b.Addr().String())
	if err == nil { // in TLS 1.3 the client is done before the server has judged it
		again.SetReadDeadline(time.Now().Add(handshakeTimeout))
		_, err = again.Read(make([]byte, 1))
		again.Close()
	}
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a barred member dialled: %v, want a refusal", err)
	}
	b.Bar(nil)
	l := b.Listener(Call)
	echo(t, l)
	conn, err = a.DialMember(t.Context(), Call, b.id.ID, b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, conn)
}

// TestMemberWithoutAClock has a node whose clock stands where it stopped months ago
// dial members that have renewed their certificates since, and be dialled.
func TestMemberWithoutAClock(t *testing.T) {
	secret, trust := pki.NewSecret(), newTrust(t)
	now := time.Now().AddDate(0, 6, 0)
	lateDir := t.TempDir()
	clock, err := pki.OpenClock(lateDir, func() time.Time { return time.Unix(60, 0) })
	if err != nil {
		t.Fatal(err)
	}
	clock.Raise(time.Now())
	late := newHost(t, secret, trust, func(c *Config) { c.Now, c.Follow = clock.Now, clock.Follow })
	member := newHost(t, secret, trust, func(c *Config) { c.Now = func() time.Time { return now } })
	cert, err := trust.Authority.Node(member.id, "n", nil, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	member.SetMembership(Membership{Authority: trust.Authority, Cert: cert})
	echo(t, member.Listener(Raft))
	conn, err := late.DialMember(t.Context(), Raft, member.id.ID, member.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, conn)
	if clock.Now().Before(now.Add(-time.Minute)) {
		t.Errorf("the clock shows %v after the node met a member at %v", clock.Now(), now)
	}
	echo(t, late.Listener(Raft))
	if conn, err = member.DialMember(t.Context(), Raft, late.id.ID, late.Addr().String()); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, conn)

	// A node whose clock is not known to be wrong believes itself.
	right := newHost(t, secret, trust, func(c *Config) { c.Follow = func(time.Time) bool { return false } })
	if _, err := right.DialMember(t.Context(), Raft, member.id.ID, member.Addr().String()); err == nil || !strings.Contains(err.Error(), "not yet valid") {
		t.Errorf("a certificate from the future: %v, want a refusal", err)
	}
}

func TestBothEndsTellOfAWrongSecret(t *testing.T) {
	told := make(chan error, 2)
	tell := func(c *Config) { c.Refused = func(_ net.Addr, err error) { told <- err } }
	a, b := newHost(t, pki.NewSecret(), nil, tell), newHost(t, pki.NewSecret(), nil, tell)
	if _, err := a.DialProven(t.Context(), Ring, b.Addr().String()); !errors.Is(err, pki.ErrWrongSecret) {
		t.Fatalf("dial with another secret: %v, want ErrWrongSecret", err)
	}
	for range 2 {
		if err := <-told; !errors.Is(err, pki.ErrWrongSecret) {
			t.Errorf("told of %v", err)
		}
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
