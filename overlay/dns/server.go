package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
)

const (
	// udpSize is what we say we take and send at most in a datagram: more would be
	// fragmented on the tunnel.
	udpSize = 1232
	// maxTCP bounds the connections at a time, maxChase the aliases followed.
	maxTCP   = 256
	maxChase = 8
)

// Config is what a Server is made of.
type Config struct {
	Domain    string // "cluster.local"
	Ranges    []netip.Prefix
	Pods      []netip.Prefix
	Source    Source
	Upstreams func() []netip.AddrPort
	// Stubs are other servers for names below some domains; it may be nil.
	Stubs func() []Stub
	// NamespaceOf tells the namespace of a pod of this node by its address, if the
	// pod has the search path of its namespace and no other; it may be nil.
	NamespaceOf func(netip.Addr) (string, bool)
	// Searches are the node's own search domains, which follow the cluster's in
	// pods' search paths; it may be nil.
	Searches func() []string
	Dial     Dial // nil: a plain dialer
	// Listen opens the sockets to serve on.
	Listen func() (net.PacketConn, net.Listener, error)
	// Took is told how long each answer took; it may be nil.
	Took   func(time.Duration)
	Logger *slog.Logger
}

// Server is a DNS server.
type Server struct {
	cfg   Config
	zone  Zone
	cache *memory
	count counters
}

// New returns a server.
func New(cfg Config) *Server {
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	zone := Zone{Domain: strings.ToLower(dns.Fqdn(cfg.Domain)), Ranges: cfg.Ranges, Pods: cfg.Pods}
	if cfg.Stubs == nil {
		cfg.Stubs = func() []Stub { return nil }
	}
	if cfg.Searches == nil {
		cfg.Searches = func() []string { return nil }
	}
	if cfg.Took == nil {
		cfg.Took = func(time.Duration) {}
	}
	s := &Server{cfg: cfg, zone: zone}
	s.cache = newCache(time.Now, newForwarder(cfg.Upstreams, cfg.Stubs, cfg.Dial).ask)
	return s
}

// Run serves until ctx ends, opening its sockets again should they fail.
func (s *Server) Run(ctx context.Context) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		began := time.Now()
		err := s.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			wait = 100 * time.Millisecond
		}
		s.cfg.Logger.Error("cluster DNS does not answer, will be tried again", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (s *Server) serve(ctx context.Context) error {
	packets, listener, err := s.cfg.Listen()
	if err != nil {
		return fmt.Errorf("opening the DNS sockets: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		began, client, tcp := time.Now(), netip.Addr{}, false
		switch from := w.RemoteAddr().(type) {
		case *net.TCPAddr:
			client, tcp = from.AddrPort().Addr().Unmap(), true
		case *net.UDPAddr:
			client = from.AddrPort().Addr().Unmap()
		}
		if resp := s.Handle(ctx, client, req, tcp); resp != nil {
			_ = w.WriteMsg(resp) // the client is gone, or asks again
			s.cfg.Took(time.Since(began))
		}
	})
	servers := []*dns.Server{
		{PacketConn: packets, Handler: handler, UDPSize: udpSize},
		{Listener: netutil.LimitListener(listener, maxTCP), Handler: handler, ReadTimeout: 2 * time.Second, IdleTimeout: func() time.Duration { return 8 * time.Second }},
	}
	ended := make(chan error, len(servers))
	for _, server := range servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() {
			ended <- server.ActivateAndServe()
			cancel() // one socket alone is no server
		}()
		select {
		case <-started:
		case <-ctx.Done():
		}
	}
	<-ctx.Done()
	bound, stop := context.WithTimeout(context.Background(), 3*time.Second)
	defer stop()
	for _, server := range servers {
		_ = server.ShutdownContext(bound) // fails for the one that ended by itself
	}
	packets.Close()
	listener.Close()
	return errors.Join(<-ended, <-ended)
}

// Handle answers one message of a client; nil means not at all.
func (s *Server) Handle(ctx context.Context, client netip.Addr, req *dns.Msg, tcp bool) *dns.Msg {
	if req.Response {
		return nil // answering answers would let two servers talk for ever
	}
	s.count.questions.Add(1)
	resp := new(dns.Msg)
	resp.SetReply(req)
	resp.RecursionAvailable = true
	size := dns.MinMsgSize
	if opt := req.IsEdns0(); opt != nil {
		if opt.Version() != 0 {
			resp.SetEdns0(udpSize, false)
			resp.Rcode = dns.RcodeBadVers
			return resp
		}
		size = min(max(size, int(opt.UDPSize())), udpSize)
	}
	switch {
	case req.Opcode != dns.OpcodeQuery:
		resp.Rcode = dns.RcodeNotImplemented
	case len(req.Question) != 1:
		resp.Rcode = dns.RcodeFormatError
	case req.Question[0].Qclass != dns.ClassINET || req.Question[0].Qtype == dns.TypeAXFR || req.Question[0].Qtype == dns.TypeIXFR:
		resp.Rcode = dns.RcodeRefused
	default:
		resp = s.resolve(ctx, req, resp)
		if resp.Rcode != dns.RcodeNameError {
			break
		}
		if name, ok := s.begins(client, req.Question[0]); ok {
			if whole := s.complete(ctx, req, name); whole != nil {
				s.count.completed.Add(1)
				resp = whole
			}
		}
	}
	if opt := req.IsEdns0(); opt != nil && resp.IsEdns0() == nil {
		resp.SetEdns0(udpSize, opt.Do())
	}
	if tcp {
		size = dns.MaxMsgSize
	}
	resp.Truncate(size)
	return resp
}

// resolve answers the one question of req, following aliases out of the cluster.
func (s *Server) resolve(ctx context.Context, req, resp *dns.Msg) *dns.Msg {
	q := req.Question[0]
	for range maxChase {
		if !s.zone.Mine(strings.ToLower(q.Name), s.cfg.Source) {
			return s.forward(ctx, req, resp, q)
		}
		if !s.cfg.Source.Synced() {
			resp.Rcode = dns.RcodeServerFailure
			return resp
		}
		s.count.cluster.Add(1)
		reply := s.zone.Answer(q, s.cfg.Source)
		resp.Authoritative = true
		resp.Rcode = reply.Code
		rand.Shuffle(len(reply.Answers), func(i, j int) {
			reply.Answers[i], reply.Answers[j] = reply.Answers[j], reply.Answers[i]
		})
		resp.Answer = append(resp.Answer, reply.Answers...)
		resp.Extra = append(resp.Extra, reply.Extra...)
		if reply.Chase == "" {
			if len(reply.Answers) == 0 {
				resp.Ns = []dns.RR{s.zone.SOA()}
			}
			return resp
		}
		q.Name = reply.Chase
	}
	resp.Answer, resp.Rcode = nil, dns.RcodeServerFailure
	return resp
}

// forward asks the upstreams for q and puts what they say behind the aliases that
// resp already holds.
func (s *Server) forward(ctx context.Context, req, resp *dns.Msg, q dns.Question) *dns.Msg {
	ask := req.Copy()
	ask.Question[0] = q
	got, known, err := s.cache.get(ctx, ask)
	if known {
		s.count.cached.Add(1)
	} else {
		s.count.forwarded.Add(1)
	}
	if err != nil {
		s.count.failed.Add(1)
		s.cfg.Logger.Debug("forwarding a DNS question", "name", q.Name, "error", err)
		resp.Rcode = dns.RcodeServerFailure
		return resp
	}
	got.Id, got.Question = req.Id, req.Question
	got.Answer = append(resp.Answer, got.Answer...)
	return got
}
