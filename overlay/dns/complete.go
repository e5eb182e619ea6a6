package dns

import (
	"context"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// A pod's resolver tries a name with fewer than five dots under each domain of
// its search path before it tries the name as it is: for www.example.org these
// are www.example.org.NAMESPACE.svc.DOMAIN, ….svc.DOMAIN, ….DOMAIN, those under
// the node's own search domains, and www.example.org, twice each for two address
// families. When the first of them comes and does not exist, complete walks the
// rest of the path at once, and answers with an alias to the name that exists.
//
// Only a question that a pod of that very namespace asks is taken for the begin of
// such a walk, and only with a dot in what the program asked for: single words
// are Services', and that one does not exist should not depend on upstreams.

// begins returns the name that a resolver's walk is about, if q is its begin.
func (s *Server) begins(client netip.Addr, q dns.Question) (name string, ok bool) {
	if s.cfg.NamespaceOf == nil || q.Qtype != dns.TypeA && q.Qtype != dns.TypeAAAA {
		return "", false
	}
	namespace, ok := s.cfg.NamespaceOf(client)
	if !ok {
		return "", false
	}
	name, ok = strings.CutSuffix(strings.ToLower(q.Name), "."+namespace+".svc."+s.zone.Domain)
	if !ok || !strings.Contains(name, ".") {
		return "", false
	}
	return name, true
}

// complete walks the rest of the path; nil when no name on it exists, or when that
// cannot be said: then the client walks itself.
func (s *Server) complete(ctx context.Context, req *dns.Msg, name string) *dns.Msg {
	path := []string{name + ".svc." + s.zone.Domain, name + "." + s.zone.Domain}
	for _, domain := range s.cfg.Searches() {
		path = append(path, name+"."+dns.CanonicalName(domain))
	}
	for _, next := range append(path, name+".") {
		if _, ok := dns.IsDomainName(next); !ok {
			continue // too long: the resolver cannot ask for it either
		}
		ask := req.Copy()
		ask.Question[0].Name = next
		blank := new(dns.Msg)
		blank.SetReply(ask)
		blank.RecursionAvailable = true
		got := s.resolve(ctx, ask, blank)
		if got.Rcode == dns.RcodeNameError {
			continue
		}
		if got.Rcode != dns.RcodeSuccess {
			return nil
		}
		alias := &dns.CNAME{Hdr: header(req.Question[0].Name, dns.TypeCNAME), Target: next}
		got.Question = req.Question
		got.Answer = append([]dns.RR{alias}, got.Answer...)
		return got
	}
	return nil
}
