// Package port is the one TCP port of a node: a TLS listener that tells
// protocols apart by ALPN (RFC 7301) and hands each handshaken connection to the
// listener of its protocol, and the matching way to dial.
//
// There are three kinds of protocol. A public one (the Kubernetes API) shows the
// node's serving certificate and asks for a client certificate without judging
// it. A proven one works before a cluster exists: both ends show keys of their
// own and prove the join secret. A member one asks for certificates of the
// cluster's authority at both ends and checks the node id behind them.
//
// A Port is safe for concurrent use. Only node and cmd import this package; the
// rooms see listeners and dial functions.
package port

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kontiki/pki"
)

// The protocols between nodes.
const (
	Ring  = "kontiki-ring/1"  // gossip streams: proven
	Form  = "kontiki-form/1"  // formation of a cluster: proven
	Join  = "kontiki-join/1"  // joining a cluster: proven
	Raft  = "kontiki-raft/1"  // Raft's RPCs: member
	Call  = "kontiki-call/1"  // forwarded writes and read-index: member
	Agent = "kontiki-agent/1" // a node's agent, over HTTP/1.1: member
	// Secret tells members the cluster's join secret: member. It is open to those that
	// were shut out by Bar, so that they can be told that they were removed.
	Secret = "kontiki-secret/1"
)

// API stands for the protocols of the Kubernetes API: h2, http/1.1 or none.
const API = "h2"

var (
	apiProtocols    = []string{API, "http/1.1"}
	provenProtocols = []string{Ring, Form, Join}
	memberProtocols = []string{Raft, Call, Agent, Secret}
)

const (
	// handshakeTimeout bounds what a stranger can hold without having said anything.
	handshakeTimeout = 10 * time.Second
	// maxHandshakes bounds how many do so at a time.
	maxHandshakes = 256
	// backlog is the number of handshaken connections that wait for an Accept.
	backlog = 128
)

// ErrNoMember is returned for a member protocol on a node that has no cluster yet.
var ErrNoMember = errors.New("this node belongs to no cluster yet")

// Membership is what a node shows and checks once it belongs to a cluster.
type Membership struct {
	Authority *pki.Authority
	Cert      tls.Certificate // node certificate, for members and for the API
}

// Config says who listens where.
type Config struct {
	Address  string // host:port to listen on
	Identity pki.Identity
	Secrets  pki.Secrets      // join secrets, at least one; SetSecrets changes them
	Now      func() time.Time // the clock that certificates are checked with
	Logger   *slog.Logger

	// Follow, if set, is told when a member's certificate is from the future; it
	// says whether this node's clock is the wrong one, and was set to that time.
	Follow func(time.Time) bool

	// Refused, if set, is told of every node that fails to prove the join secret, or
	// that finds this one failing; it must return quickly.
	Refused func(peer net.Addr, err error)
}

// Port is a listening cluster port.
type Port struct {
	cfg        Config
	tcp        net.Listener
	listeners  map[string]*listener
	membership atomic.Pointer[Membership]
	secrets    atomic.Pointer[pki.Secrets]
	handshakes chan struct{}
	guests     guests
}

// Listen opens the port. Connections are taken once Run is called.
func Listen(cfg Config) (*Port, error) {
	tcp, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("listen on the cluster port: %w", err)
	}
	p := &Port{cfg: cfg, tcp: tcp, listeners: map[string]*listener{}, handshakes: make(chan struct{}, maxHandshakes)}
	for _, proto := range slices.Concat([]string{API}, provenProtocols, memberProtocols) {
		p.listeners[proto] = &listener{conns: make(chan net.Conn, backlog), closed: make(chan struct{}), addr: tcp.Addr()}
	}
	p.SetSecrets(cfg.Secrets)
	return p, nil
}

// SetSecrets changes which join secrets are proved and accepted from now on.
func (p *Port) SetSecrets(s pki.Secrets) { p.secrets.Store(&s) }

// SetMembership lets the port speak the member protocols and serve the API; it
// is called again when the node's certificate was renewed.
func (p *Port) SetMembership(m Membership) { p.membership.Store(&m) }

// Addr is the address that the port listens on.
func (p *Port) Addr() net.Addr { return p.tcp.Addr() }

// Listener yields the connections of one protocol, each behind its handshake. For
// a proven protocol and for the API it is a *tls.Conn.
func (p *Port) Listener(protocol string) net.Listener { return p.listeners[protocol] }

// Run accepts connections until ctx ends, then closes the port and waits for
// the handshakes that are under way.
func (p *Port) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	stop := context.AfterFunc(ctx, func() { p.Close() })
	defer stop()
	for {
		conn, err := p.tcp.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// Out of descriptors or the like: it passes, and the port is all a node has.
			p.cfg.Logger.Error("accepting a connection failed", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case p.handshakes <- struct{}{}:
		case <-ctx.Done():
			conn.Close()
			return nil
		}
		work.Go(func() {
			defer func() { <-p.handshakes }()
			p.welcome(ctx, conn)
		})
	}
}

// Close stops listening. Connections that were handed out stay open.
func (p *Port) Close() error {
	for _, l := range p.listeners {
		l.Close()
	}
	return p.tcp.Close()
}

// welcome shakes hands and hands the connection to its protocol's listener.
func (p *Port) welcome(ctx context.Context, raw net.Conn) {
	conn := tls.Server(raw, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: p.serverConfig,
	})
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		p.cfg.Logger.Debug("TLS handshake failed", "peer", raw.RemoteAddr(), "err", err)
		raw.Close()
		return
	}
	protocol := conn.ConnectionState().NegotiatedProtocol
	if protocol == "" || protocol == "http/1.1" {
		protocol = API
	}
	if slices.Contains(provenProtocols, protocol) {
		err := bounded(conn, func() error { return p.secrets.Load().Accept(conn, p.cfg.Identity.Self) })
		if err != nil {
			p.tellRefused(conn, err)
			p.cfg.Logger.Debug("a node did not prove the join secret", "peer", raw.RemoteAddr(), "protocol", protocol, "err", err)
			conn.Close()
			return
		}
	}
	if slices.Contains(memberProtocols, protocol) {
		guest, err := p.guests.welcome(conn, protocol, p.membership.Load(), p.verify)
		if err != nil {
			p.cfg.Logger.Debug("refused a member", "peer", raw.RemoteAddr(), "protocol", protocol, "err", err)
			conn.Close()
			return
		}
		p.listeners[protocol].deliver(guest)
		return
	}
	p.listeners[protocol].deliver(conn)
}

// serverConfig picks the side of the port that a client asks for.
func (p *Port) serverConfig(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	for _, proto := range hello.SupportedProtos {
		switch {
		case slices.Contains(provenProtocols, proto):
			return p.provenConfig(proto), nil
		case slices.Contains(memberProtocols, proto):
			return p.memberConfig(proto, "")
		}
	}
	m := p.membership.Load()
	if m == nil {
		return nil, ErrNoMember
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   apiProtocols,
		Certificates: []tls.Certificate{m.Cert},
		ClientAuth:   tls.RequestClientCert,
		ClientCAs:    m.Authority.Pool(), // tells clients which certificate to show
		Time:         p.cfg.Now,
	}, nil
}

// provenConfig is the same for both ends: keys are shown, and trusted by the
// proof that follows the handshake.
func (p *Port) provenConfig(proto string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{proto},
		Certificates:       []tls.Certificate{p.cfg.Identity.Self},
		ClientAuth:         tls.RequireAnyClientCert,
		InsecureSkipVerify: true, // the proof of the join secret binds both keys
	}
}

// bounded bounds an exchange of proofs in time.
func bounded(conn net.Conn, exchange func() error) error {
	conn.SetDeadline(time.Now().Add(handshakeTimeout))
	defer conn.SetDeadline(time.Time{})
	return exchange()
}

func (p *Port) tellRefused(conn net.Conn, err error) {
	if errors.Is(err, pki.ErrWrongSecret) && p.cfg.Refused != nil {
		p.cfg.Refused(conn.RemoteAddr(), err)
	}
}

// memberConfig is the same for both ends. peer, when not empty, is the only
// node id that is accepted.
func (p *Port) memberConfig(proto, peer string) (*tls.Config, error) {
	m := p.membership.Load()
	if m == nil {
		return nil, ErrNoMember
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{proto},
		Certificates:       []tls.Certificate{m.Cert},
		ClientAuth:         tls.RequireAnyClientCert,
		InsecureSkipVerify: true, // addresses change, so VerifyConnection checks the node id in place of a host name
		VerifyConnection: func(state tls.ConnectionState) error {
			got, err := p.verify(m, state.PeerCertificates[0])
			if err != nil {
				return err
			}
			if peer != "" && got != peer {
				return fmt.Errorf("the node there is %s, not %s", got, peer)
			}
			return p.guests.check(got, proto)
		},
	}, nil
}

// verify checks a member's certificate and returns its node id.
func (p *Port) verify(m *Membership, cert *x509.Certificate) (string, error) {
	if p.cfg.Follow != nil && p.cfg.Now().Before(cert.NotBefore) {
		id, err := m.Authority.VerifyNode(cert, cert.NotBefore)
		if err == nil && p.cfg.Follow(pki.MadeAt(cert)) {
			return id, nil
		}
	}
	return m.Authority.VerifyNode(cert, p.cfg.Now())
}

// DialProven connects to a node by address and proves the join secret. While the secret
// is being changed, the other end may know only the one that this end does not prove first.
func (p *Port) DialProven(ctx context.Context, protocol, addr string) (net.Conn, error) {
	secrets := *p.secrets.Load()
	for i, secret := range secrets {
		conn, err := dial(ctx, addr, p.provenConfig(protocol), patience[protocol])
		if err != nil {
			return nil, err
		}
		err = bounded(conn, func() error { return secret.Prove(conn, p.cfg.Identity.Self) })
		if err == nil {
			return conn, nil
		}
		conn.Close()
		if last := i == len(secrets)-1; last || !errors.Is(err, pki.ErrWrongSecret) {
			p.tellRefused(conn, err)
			return nil, fmt.Errorf("dial %s: %w", addr, err)
		}
	}
	panic("port: no join secret")
}

// DialMember connects to the member nodeID of the cluster at addr, and fails if
// another node answers there. An empty nodeID stands for any member.
func (p *Port) DialMember(ctx context.Context, protocol, nodeID, addr string) (net.Conn, error) {
	config, err := p.memberConfig(protocol, nodeID)
	if err != nil {
		return nil, err
	}
	return dial(ctx, addr, config, patience[protocol])
}

// patience is how long a dialled address may stay silent, where that is less than
// handshakeTimeout: the ring tries again by itself, and once more takes less than waiting
// for the kernel's next repetition. What comes after the connection has handshakeTimeout:
// a machine that answers may be busy.
var patience = map[string]time.Duration{Ring: 1500 * time.Millisecond}

func dial(ctx context.Context, addr string, config *tls.Config, patience time.Duration) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	d := net.Dialer{Timeout: patience}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return conn, nil
}

// listener is a net.Listener fed with handshaken connections.
type listener struct {
	conns  chan net.Conn
	addr   net.Addr
	closed chan struct{}
	once   sync.Once
}

func (l *listener) deliver(conn net.Conn) {
	select {
	case <-l.closed:
		conn.Close()
		return
	default:
	}
	select {
	case l.conns <- conn:
	case <-l.closed:
		conn.Close()
	case <-time.After(handshakeTimeout): // nobody accepts
		conn.Close()
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		for {
			select {
			case conn := <-l.conns:
				conn.Close()
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }
