package dns

import (
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// ResolvConf is a resolv.conf that is read again when it has changed. It is looked
// at once a second at most, and is safe for use by any number of goroutines.
type ResolvConf struct {
	path string
	self netip.Addr

	mu               sync.Mutex // protects the fields below
	looked, modified time.Time
	servers          []netip.AddrPort
	searches         []string
}

// NewResolvConf returns the file at path; self is never one of its servers.
func NewResolvConf(path string, self netip.Addr) *ResolvConf {
	return &ResolvConf{path: path, self: self}
}

// Servers are the name servers, in order.
func (r *ResolvConf) Servers() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lookLocked()
	return r.servers
}

// Searches are the search domains, in order.
func (r *ResolvConf) Searches() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lookLocked()
	return r.searches
}

// lookLocked reads the file if it is another. One that cannot be read changes
// nothing: it may be written just now.
func (r *ResolvConf) lookLocked() {
	if time.Since(r.looked) < time.Second {
		return
	}
	r.looked = time.Now()
	info, err := os.Stat(r.path)
	if err != nil || info.ModTime().Equal(r.modified) {
		return
	}
	conf, err := dns.ClientConfigFromFile(r.path)
	if err != nil {
		return
	}
	r.modified, r.servers, r.searches = info.ModTime(), nil, nil
	for _, s := range conf.Servers {
		addr, err := netip.ParseAddr(s)
		if err == nil && addr != r.self && !slices.Contains(r.servers, netip.AddrPortFrom(addr, 53)) {
			r.servers = append(r.servers, netip.AddrPortFrom(addr, 53))
		}
	}
	for _, domain := range conf.Search {
		if _, ok := dns.IsDomainName(domain); ok && domain != "" && domain != "." {
			r.searches = append(r.searches, domain)
		}
	}
}
