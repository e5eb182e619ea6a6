package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// TestSearchPathInOneRoundTrip: what a resolver asks first for a name that is
// outside, or of another namespace, is answered with that name's addresses.
func TestSearchPathInOneRoundTrip(t *testing.T) {
	s := server(cluster(), upstream(t))
	pod, stranger := netip.MustParseAddr("10.42.1.7"), netip.MustParseAddr("10.42.1.8")
	s.cfg.NamespaceOf = func(a netip.Addr) (string, bool) { return "default", a == pod }
	s.cfg.Searches = func() []string { return []string{"corp.example", "org"} }
	for _, tc := range []struct {
		from       netip.Addr
		name, want string
	}{
		{pod, "www.example.org.default.svc.cluster.local.", "NOERROR 192.0.2.80 www.example.org."},
		{pod, "www.example.default.svc.cluster.local.", "NOERROR 192.0.2.80 www.example.org."},
		{pod, "other.example.org.default.svc.cluster.local.", "NXDOMAIN"},
		{pod, "www.example.org.svc.cluster.local.", "NXDOMAIN"},
		{pod, "www.example.org.other.svc.cluster.local.", "NXDOMAIN"},
		{pod, "nothing.default.svc.cluster.local.", "NXDOMAIN"},
		{stranger, "www.example.org.default.svc.cluster.local.", "NXDOMAIN"},
	} {
		resp := s.Handle(t.Context(), tc.from, new(dns.Msg).SetQuestion(tc.name, dns.TypeA), false)
		if got := describe(resp); got != tc.want || resp.Question[0].Name != tc.name {
			t.Errorf("%s: %q, want %q (%v)", tc.name, got, tc.want, resp)
		}
	}
	if got := s.Stats(); got.Completed != 2 || got.Questions != 7 {
		t.Errorf("counted %+v", got)
	}
}

// TestCache lets an upstream answer in a bubble of fake time.
func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := map[string]int{}
		fail := false
		c := newCache(time.Now, func(_ context.Context, req *dns.Msg) (*dns.Msg, error) {
			asked[req.Question[0].Name]++
			if fail {
				return nil, errors.New("away")
			}
			resp := new(dns.Msg).SetReply(req)
			switch req.Question[0].Name {
			case "a.":
				resp.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "a.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
			case "gone.":
				resp.Rcode = dns.RcodeNameError
				resp.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 3600}, Minttl: 10}}
			case "broken.":
				resp.Rcode = dns.RcodeServerFailure
			}
			return resp, nil
		})
		get := func(name string) *dns.Msg {
			t.Helper()
			m, _, err := c.get(t.Context(), new(dns.Msg).SetQuestion(name, dns.TypeA))
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		for _, name := range []string{"a.", "gone.", "broken."} {
			get(name)
			get(name)
		}
		if got := fmt.Sprint(asked); got != "map[a.:1 broken.:2 gone.:1]" {
			t.Errorf("asked %s", got)
		}
		time.Sleep(9 * time.Second)
		if ttl := get("a.").Answer[0].Header().Ttl; ttl != 51 {
			t.Errorf("after 9 s the record lives for %d s", ttl)
		}
		get("gone.")
		time.Sleep(2 * time.Second)
		get("gone.")
		time.Sleep(50 * time.Second)
		get("a.")
		if got := fmt.Sprint(asked); got != "map[a.:2 broken.:2 gone.:2]" {
			t.Errorf("asked %s", got)
		}
		fail = true
		time.Sleep(time.Hour)
		if _, _, err := c.get(t.Context(), new(dns.Msg).SetQuestion("a.", dns.TypeA)); err == nil {
			t.Error("an old answer was given for one that could not be had")
		}
	})
}

func TestManyAskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		asked := 0
		c := newCache(time.Now, func(_ context.Context, req *dns.Msg) (*dns.Msg, error) {
			mu.Lock()
			asked++
			mu.Unlock()
			time.Sleep(time.Second)
			return new(dns.Msg).SetReply(req), nil
		})
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, _, err := c.get(t.Context(), new(dns.Msg).SetQuestion("A.", dns.TypeA)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(time.Now, func(_ context.Context, req *dns.Msg) (*dns.Msg, error) {
		resp := new(dns.Msg).SetReply(req)
		resp.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: req.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
		return resp, nil
	})
	for i := range maxCached + 100 {
		if _, _, err := c.get(t.Context(), new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.", i), dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.entries) != maxCached {
		t.Errorf("%d entries", len(c.entries))
	}
}

func TestStubDomains(t *testing.T) {
	one, two, other := netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:53"), netip.MustParseAddrPort("192.0.2.3:53")
	f := newForwarder(func() []netip.AddrPort { return []netip.AddrPort{other} }, func() []Stub {
		return []Stub{{"corp.example.", []netip.AddrPort{one}}, {"deep.corp.example.", []netip.AddrPort{two}}}
	}, nil)
	for name, want := range map[string]netip.AddrPort{
		"corp.example.": one, "a.corp.example.": one, "a.deep.corp.example.": two, "notcorp.example.": other, "example.": other,
	} {
		if got := f.serversFor(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s is asked of %v, want %s", name, got, want)
		}
	}
}

func TestResolvConf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("search corp.example . example.org\nnameserver 192.0.2.53\nnameserver 10.43.0.10\nnameserver 192.0.2.53\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := NewResolvConf(file, netip.MustParseAddr("10.43.0.10"))
	if got := fmt.Sprint(conf.Servers(), conf.Searches()); got != "[192.0.2.53:53] [corp.example example.org]" {
		t.Errorf("it says %s", got)
	}
	if got := NewResolvConf(file+".missing", netip.Addr{}).Servers(); got != nil {
		t.Errorf("a file that is not there names %v", got)
	}
}

// BenchmarkAnswers is whole messages over one UDP socket of loopback, client
// included; one core of it is the server's at most.
func BenchmarkAnswers(b *testing.B) {
	s := server(cluster())
	s.cfg.Logger = slog.New(slog.DiscardHandler)
	req := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
	packed, err := req.Pack()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		in := new(dns.Msg)
		if err := in.Unpack(packed); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Handle(b.Context(), netip.Addr{}, in, false).Pack(); err != nil {
			b.Fatal(err)
		}
	}
}
