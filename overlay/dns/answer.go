package dns

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// ttl of all answers, in seconds: how stale a client may be.
const ttl = 5

// Zone is what the answers are about.
type Zone struct {
	Domain string // "cluster.local."; lower case, with the final dot
	// Ranges are the addresses all of whose reverse names are the cluster's own.
	Ranges []netip.Prefix
	// Pods are the addresses that have names as 10-42-0-5.namespace.pod.DOMAIN.
	Pods []netip.Prefix
}

// Reply is the answer to one question.
type Reply struct {
	Code    int // dns.RcodeSuccess, …
	Answers []dns.RR
	Extra   []dns.RR
	// Chase is a name outside the cluster that the last answer leads to.
	Chase string
}

// Mine says whether a name (lower case, with the final dot) is the cluster's own. So are the
// reverse names of Services' addresses out of other ranges than those that were there first.
func (z Zone) Mine(name string, src Source) bool {
	if name == z.Domain || strings.HasSuffix(name, "."+z.Domain) {
		return true
	}
	addr, ok := reverse(name)
	return ok && (slices.ContainsFunc(z.Ranges, func(p netip.Prefix) bool { return p.Contains(addr) }) ||
		!src.Synced() || len(src.ServicesAt(addr)) > 0)
}

// Answer answers a question about a name that is Mine. It is a pure function of
// the source. No answers and success mean that the name exists without records
// of that type.
func (z Zone) Answer(q dns.Question, src Source) Reply {
	name := strings.ToLower(q.Name)
	if addr, ok := reverse(name); ok {
		return z.answerReverse(q, addr, src)
	}
	rest := strings.TrimSuffix(strings.TrimSuffix(name, z.Domain), ".")
	if rest == "" {
		return Reply{}
	}
	labels := strings.Split(rest, ".")
	slices.Reverse(labels) // svc, namespace, service, …
	switch labels[0] {
	case "svc":
		return z.answerService(q, labels[1:], src)
	case "pod":
		return z.answerPod(q, labels[1:], src)
	case "dns-version":
		if len(labels) == 1 {
			return only(q, dns.TypeTXT, &dns.TXT{Txt: []string{"1.1.0"}})
		}
	}
	return Reply{Code: dns.RcodeNameError}
}

// answerService answers <service>.<namespace>.svc and what lies below; labels are
// what stands before svc, from the right.
func (z Zone) answerService(q dns.Question, labels []string, src Source) Reply {
	if len(labels) == 0 {
		return Reply{}
	}
	if len(labels) == 1 {
		if !src.HasNamespace(labels[0]) {
			return Reply{Code: dns.RcodeNameError}
		}
		return Reply{}
	}
	svc := src.Service(labels[0], labels[1])
	if svc == nil {
		return Reply{Code: dns.RcodeNameError}
	}
	below := labels[2:]
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return z.answerExternal(q, svc, below)
	}
	var eps []endpoint
	headless := svc.Spec.ClusterIP == corev1.ClusterIPNone
	if headless {
		if eps = endpointsOf(src.Slices(svc.Namespace, svc.Name)); len(eps) == 0 {
			return Reply{Code: dns.RcodeNameError} // as the specification says
		}
	}
	switch {
	case len(below) == 0:
		return addresses(q, serviceAddrs(svc, eps))
	case below[0] == "_tcp" || below[0] == "_udp" || below[0] == "_sctp":
		return z.answerSRV(q, svc, headless, eps, below)
	case headless && len(below) == 1:
		var addrs []netip.Addr
		for _, ep := range eps {
			if ep.hostname == below[0] {
				addrs = append(addrs, ep.addr)
			}
		}
		if len(addrs) > 0 {
			return addresses(q, addrs)
		}
	}
	return Reply{Code: dns.RcodeNameError}
}

func (z Zone) answerExternal(q dns.Question, svc *corev1.Service, below []string) Reply {
	if len(below) > 0 || svc.Spec.ExternalName == "" {
		return Reply{Code: dns.RcodeNameError}
	}
	target := dns.Fqdn(svc.Spec.ExternalName)
	if _, ok := dns.IsDomainName(target); !ok {
		return Reply{Code: dns.RcodeServerFailure}
	}
	r := Reply{Answers: []dns.RR{&dns.CNAME{Hdr: header(q.Name, dns.TypeCNAME), Target: target}}}
	if q.Qtype != dns.TypeCNAME {
		r.Chase = target
	}
	return r
}

// answerSRV answers _port._protocol.service; below is [_protocol] or [_protocol, _port].
func (z Zone) answerSRV(q dns.Question, svc *corev1.Service, headless bool, eps []endpoint, below []string) Reply {
	proto := strings.ToUpper(strings.TrimPrefix(below[0], "_"))
	base := fmt.Sprintf("%s.%s.svc.%s", svc.Name, svc.Namespace, z.Domain)
	var r Reply
	found := false
	add := func(port uint16, target string, addr []netip.Addr) {
		found = true
		if len(below) == 1 || q.Qtype != dns.TypeSRV && q.Qtype != dns.TypeANY {
			return
		}
		r.Answers = append(r.Answers, &dns.SRV{Hdr: header(q.Name, dns.TypeSRV), Weight: 1, Port: port, Target: target})
		extra := addresses(dns.Question{Name: target, Qtype: dns.TypeANY}, addr)
		r.Extra = append(r.Extra, extra.Answers...)
	}
	match := func(name, protocol string) bool {
		if protocol == "" {
			protocol = "TCP"
		}
		return protocol == proto && (len(below) == 1 || name != "" && "_"+name == below[1])
	}
	if len(below) > 2 {
		return Reply{Code: dns.RcodeNameError}
	}
	if !headless {
		for _, p := range svc.Spec.Ports {
			if match(p.Name, string(p.Protocol)) {
				add(uint16(p.Port), base, serviceAddrs(svc, nil))
			}
		}
	}
	for _, ep := range eps {
		for _, p := range ep.ports {
			if match(p.name, p.protocol) {
				add(p.number, ep.hostname+"."+base, []netip.Addr{ep.addr})
			}
		}
	}
	if !found {
		return Reply{Code: dns.RcodeNameError}
	}
	return r
}

// answerPod answers 10-42-0-5.namespace.pod: the name says it all.
func (z Zone) answerPod(q dns.Question, labels []string, src Source) Reply {
	switch len(labels) {
	case 0:
		return Reply{}
	case 1:
		if src.HasNamespace(labels[0]) {
			return Reply{}
		}
	case 2:
		addr, err := netip.ParseAddr(strings.ReplaceAll(labels[1], "-", "."))
		if err == nil && slices.ContainsFunc(z.Pods, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return addresses(q, []netip.Addr{addr})
		}
	}
	return Reply{Code: dns.RcodeNameError}
}

func (z Zone) answerReverse(q dns.Question, addr netip.Addr, src Source) Reply {
	var names []string
	for _, svc := range src.ServicesAt(addr) {
		names = append(names, fmt.Sprintf("%s.%s.svc.%s", svc.Name, svc.Namespace, z.Domain))
	}
	if len(names) == 0 {
		for _, slice := range src.SlicesAt(addr) {
			name := slice.Labels[discoveryv1.LabelServiceName]
			svc := src.Service(slice.Namespace, name)
			if svc == nil || svc.Spec.ClusterIP != corev1.ClusterIPNone {
				continue
			}
			for _, ep := range endpointsOf([]*discoveryv1.EndpointSlice{slice}) {
				if ep.addr == addr {
					names = append(names, fmt.Sprintf("%s.%s.%s.svc.%s", ep.hostname, name, slice.Namespace, z.Domain))
				}
			}
		}
	}
	if len(names) == 0 {
		return Reply{Code: dns.RcodeNameError}
	}
	slices.Sort(names)
	var rrs []dns.RR
	for _, n := range slices.Compact(names) {
		rrs = append(rrs, &dns.PTR{Ptr: n})
	}
	return only(q, dns.TypePTR, rrs...)
}

// SOA is the record that tells for how long to remember what does not exist.
func (z Zone) SOA() dns.RR {
	h := header(z.Domain, dns.TypeSOA)
	return &dns.SOA{Hdr: h, Ns: "ns.dns." + z.Domain, Mbox: "hostmaster." + z.Domain, Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl}
}

// endpoint is one ready endpoint of a headless Service.
type endpoint struct {
	hostname string
	addr     netip.Addr
	ports    []endpointPort
}

type endpointPort struct {
	name, protocol string
	number         uint16
}

// endpointsOf returns the ready endpoints by address. One without a hostname of
// its own is named by its address, as CoreDNS does.
func endpointsOf(list []*discoveryv1.EndpointSlice) []endpoint {
	var out []endpoint
	for _, slice := range list {
		var ports []endpointPort
		for _, p := range slice.Ports {
			if p.Port == nil {
				continue
			}
			ep := endpointPort{number: uint16(*p.Port)}
			if p.Name != nil {
				ep.name = *p.Name
			}
			if p.Protocol != nil {
				ep.protocol = string(*p.Protocol)
			}
			ports = append(ports, ep)
		}
		for _, ep := range slice.Endpoints {
			if ep.Conditions.Ready != nil && !*ep.Conditions.Ready {
				continue
			}
			for _, a := range ep.Addresses {
				addr, err := netip.ParseAddr(a)
				if err != nil {
					continue
				}
				host := strings.NewReplacer(".", "-", ":", "-").Replace(a)
				if ep.Hostname != nil && *ep.Hostname != "" {
					host = *ep.Hostname
				}
				out = append(out, endpoint{hostname: host, addr: addr, ports: ports})
			}
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int {
		return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.hostname, b.hostname))
	})
	return out
}

func serviceAddrs(svc *corev1.Service, eps []endpoint) []netip.Addr {
	var out []netip.Addr
	for _, ep := range eps {
		out = append(out, ep.addr)
	}
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return slices.Compact(out)
	}
	list := svc.Spec.ClusterIPs
	if len(list) == 0 {
		list = []string{svc.Spec.ClusterIP}
	}
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// addresses answers with those addresses that are of the asked family.
func addresses(q dns.Question, addrs []netip.Addr) Reply {
	var r Reply
	for _, a := range addrs {
		switch {
		case a.Is4() && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY):
			r.Answers = append(r.Answers, &dns.A{Hdr: header(q.Name, dns.TypeA), A: a.AsSlice()})
		case a.Is6() && (q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypeANY):
			r.Answers = append(r.Answers, &dns.AAAA{Hdr: header(q.Name, dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	return r
}

func only(q dns.Question, kind uint16, rrs ...dns.RR) Reply {
	if q.Qtype != kind && q.Qtype != dns.TypeANY {
		return Reply{}
	}
	for _, rr := range rrs {
		*rr.Header() = header(q.Name, kind)
	}
	return Reply{Answers: rrs}
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// reverse returns the address of a full reverse name of IPv4 or IPv6.
func reverse(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(rest, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		slices.Reverse(parts)
		addr, err := netip.ParseAddr(strings.Join(parts, "."))
		return addr, err == nil && addr.Is4()
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		nibbles := strings.Split(rest, ".")
		if len(nibbles) != 32 {
			return netip.Addr{}, false
		}
		slices.Reverse(nibbles)
		var b strings.Builder
		for i, n := range nibbles {
			if len(n) != 1 {
				return netip.Addr{}, false
			}
			if i > 0 && i%4 == 0 {
				b.WriteByte(':')
			}
			b.WriteString(n)
		}
		addr, err := netip.ParseAddr(b.String())
		return addr, err == nil
	}
	return netip.Addr{}, false
}
