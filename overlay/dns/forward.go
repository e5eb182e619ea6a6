package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

const (
	// askFor is how long one upstream may take before the next is asked.
	askFor = 2 * time.Second
	// maxAsking bounds the questions that wait for upstreams.
	maxAsking = 512
)

var (
	errNoUpstream = errors.New("no upstream DNS server is known: name one in /etc/resolv.conf of the node")
	errBusy       = errors.New("too many questions wait for upstream DNS servers")
)

// Dial makes a connection ("udp" or "tcp") to an upstream.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Stub names the servers for a domain and what is below it.
type Stub struct {
	Domain  string // lower case, with the final dot
	Servers []netip.AddrPort
}

// forwarder asks upstream servers.
type forwarder struct {
	upstreams func() []netip.AddrPort
	stubs     func() []Stub
	dial      Dial
	slots     chan struct{}
}

func newForwarder(upstreams func() []netip.AddrPort, stubs func() []Stub, dial Dial) *forwarder {
	return &forwarder{upstreams: upstreams, stubs: stubs, dial: dial, slots: make(chan struct{}, maxAsking)}
}

// ask returns the first upstream's answer that comes; over TCP where it did not
// fit into a datagram.
func (f *forwarder) ask(ctx context.Context, req *dns.Msg) (*dns.Msg, error) {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return nil, errBusy
	}
	servers := f.serversFor(dns.CanonicalName(req.Question[0].Name))
	if len(servers) == 0 {
		return nil, errNoUpstream
	}
	out := req.Copy()
	out.Id = dns.Id() // a fresh one: the client's must not be guessed at from outside
	var errs []error
	for _, server := range servers {
		resp, err := f.exchange(ctx, "udp", server, out)
		if err == nil && resp.Truncated {
			if whole, terr := f.exchange(ctx, "tcp", server, out); terr == nil {
				resp = whole
			}
		}
		if err == nil {
			resp.Id = req.Id
			return resp, nil
		}
		errs = append(errs, fmt.Errorf("asking %s: %w", server, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// serversFor are those of the longest stub domain that the name is in, else the
// upstreams.
func (f *forwarder) serversFor(name string) []netip.AddrPort {
	var best Stub
	for _, s := range f.stubs() {
		if dns.IsSubDomain(s.Domain, name) && len(s.Domain) > len(best.Domain) {
			best = s
		}
	}
	if best.Domain != "" {
		return best.Servers
	}
	return f.upstreams()
}

func (f *forwarder) exchange(ctx context.Context, network string, server netip.AddrPort, req *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	conn, err := f.dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// Cancelling must end the wait, too.
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	client := dns.Client{Net: network, Timeout: askFor, UDPSize: dns.MaxMsgSize}
	resp, _, err := client.ExchangeWithConnContext(ctx, req, &dns.Conn{Conn: conn, UDPSize: dns.MaxMsgSize})
	if err != nil {
		return nil, err
	}
	if len(resp.Question) != 1 || resp.Question[0].Qtype != req.Question[0].Qtype || !equalNames(resp.Question[0].Name, req.Question[0].Name) {
		return nil, errors.New("it answered another question")
	}
	return resp, nil
}

func equalNames(a, b string) bool { return dns.CanonicalName(a) == dns.CanonicalName(b) }
