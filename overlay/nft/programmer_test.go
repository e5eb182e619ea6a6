package nft

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"kontiki/overlay/service"
)

func newNS(t testing.TB) int {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	type result struct {
		ns  netns.NsHandle
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in the namespace
		ns, err := netns.New()
		made <- result{ns, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.ns.Close() })
	return int(r.ns)
}

func base() Base {
	return Base{
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24")}, Bridge: "kontiki0", Tunnel: "kontiki.1", TunnelPort: 8472, Loopback: true,
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
	}
}

// TestKernelHoldsWhatWasProgrammed applies random changes and compares the
// kernel's elements with the pools each time; some steps sabotage the table,
// which the next Check must notice and repair.
func TestKernelHoldsWhatWasProgrammed(t *testing.T) {
	fd := newNS(t)
	rapid.Check(t, func(t *rapid.T) {
		p := New(fd, slog.New(slog.DiscardHandler))
		defer p.Close()
		if err := p.SetBase(base()); err != nil {
			t.Fatal(err)
		}
		if err := p.Replace(map[service.Frontend]service.Pool{}); err != nil {
			t.Fatal(err)
		}
		table := service.NewTable()
		t.Repeat(map[string]func(*rapid.T){
			"update": func(t *rapid.T) {
				owner := fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "owner"))
				if err := p.Update(table.Set(owner, drawPools(t))); err != nil {
					t.Fatal(err)
				}
				if p.layout == nil {
					t.Fatal("the update had to fall back to a rebuild")
				}
			},
			"sabotage": func(t *rapid.T) {
				c, err := p.conn()
				if err != nil {
					t.Fatal(err)
				}
				l := newLayout()
				switch rapid.IntRange(0, 2).Draw(t, "how") {
				case 0:
					c.DelTable(l.table)
				case 1:
					c.FlushChain(&nftables.Chain{Table: l.table, Name: "postrouting"})
				case 2:
					if err := c.SetAddElements(l.refused, []nftables.SetElement{{Key: frontKey(service.Frontend{Addr: netip.MustParseAddr("192.0.2.1"), Protocol: service.TCP, Port: 1})}}); err != nil {
						t.Fatal(err)
					}
				}
				if err := c.Flush(); err != nil {
					t.Fatal(err)
				}
				if repaired, err := p.Check(); err != nil || !repaired {
					t.Fatalf("Check did not repair: %v", err)
				}
			},
			"others": func(t *rapid.T) {
				c, err := p.conn()
				if err != nil {
					t.Fatal(err)
				}
				c.AddTable(&nftables.Table{Name: "others", Family: nftables.TableFamilyIPv4})
				if err := c.Flush(); err != nil {
					t.Fatal(err)
				}
				if repaired, err := p.Check(); err != nil || repaired {
					t.Fatalf("Check repaired what was right: %v", err)
				}
			},
			"": func(t *rapid.T) {
				if !maps.EqualFunc(p.pools, table.All(), service.Pool.Equal) {
					t.Fatalf("the programmer has %v instead of %v", p.pools, table.All())
				}
				if intact, err := p.intactLocked(); !intact {
					t.Fatalf("the kernel does not hold %v: %v", p.pools, err)
				}
			},
		})
		if err := p.Teardown(); err != nil {
			t.Fatal(err)
		}
	})
}

func drawPools(t *rapid.T) map[service.Frontend]service.Pool {
	pools := map[service.Frontend]service.Pool{}
	for range rapid.IntRange(0, 4).Draw(t, "frontends") {
		f := service.Frontend{
			Protocol: rapid.SampledFrom([]service.Protocol{service.TCP, service.UDP, service.SCTP}).Draw(t, "protocol"),
			Port:     uint16(rapid.IntRange(80, 82).Draw(t, "port")),
		}
		if a := rapid.IntRange(0, 3).Draw(t, "address"); a > 0 {
			f.Addr = netip.AddrFrom4([4]byte{10, 43, 0, byte(a)})
		}
		var pool service.Pool
		pool.Masquerade = rapid.Bool().Draw(t, "masquerade")
		if pool.Restricted = rapid.Bool().Draw(t, "restricted"); pool.Restricted {
			for range rapid.IntRange(0, 3).Draw(t, "sources") {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(rapid.IntRange(0, 2).Draw(t, "network")), 0}), rapid.IntRange(15, 32).Draw(t, "length"))
				pool.Sources = append(pool.Sources, p.Masked())
			}
			slices.SortFunc(pool.Sources, netip.Prefix.Compare)
			pool.Sources = slices.Compact(pool.Sources)
		}
		pool.Affinity = time.Duration(rapid.IntRange(0, 2).Draw(t, "affinity")) * time.Hour
		for i := range rapid.IntRange(0, 5).Draw(t, "endpoints") {
			addr := netip.AddrFrom4([4]byte{10, 42, byte(rapid.IntRange(1, 2).Draw(t, "node")), byte(10*i + rapid.IntRange(2, 4).Draw(t, "host"))})
			pool.Endpoints = append(pool.Endpoints, netip.AddrPortFrom(addr, 8080))
		}
		pools[f] = pool
	}
	return pools
}

// TestAdoptsAnEarlierTable: what an earlier process programmed serves until all
// Services are known.
func TestAdoptsAnEarlierTable(t *testing.T) {
	fd := newNS(t)
	front := service.Frontend{Addr: netip.MustParseAddr("10.43.0.1"), Protocol: service.TCP, Port: 443}
	pools := map[service.Frontend]service.Pool{front: {Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.42.1.5:6443")}}}
	first := New(fd, slog.New(slog.DiscardHandler))
	if err := first.SetBase(base()); err != nil {
		t.Fatal(err)
	}
	if err := first.Replace(maps.Clone(pools)); err != nil {
		t.Fatal(err)
	}
	second := New(fd, slog.New(slog.DiscardHandler))
	if err := second.SetBase(base()); err != nil {
		t.Fatal(err)
	}
	if repaired, err := second.Check(); err != nil || repaired {
		t.Errorf("Check of an adopted table: %v, %v", repaired, err)
	}
	if intact, err := first.intactLocked(); !intact {
		t.Errorf("the earlier table was touched before the Services were known: %v", err)
	}
	if err := second.Replace(map[service.Frontend]service.Pool{}); err != nil {
		t.Fatal(err)
	}
	if intact, err := second.intactLocked(); !intact {
		t.Errorf("the table is not the new one: %v", err)
	}
}

func BenchmarkTenThousandServices(b *testing.B) {
	fd := newNS(b)
	p := New(fd, slog.New(slog.DiscardHandler))
	defer p.Close()
	if err := p.SetBase(base()); err != nil {
		b.Fatal(err)
	}
	front := func(i int) service.Frontend {
		return service.Frontend{Addr: netip.AddrFrom4([4]byte{10, 43, byte(i >> 8), byte(i)}), Protocol: service.TCP, Port: 80}
	}
	pool := func(i int) service.Pool {
		var out service.Pool
		for j := range 3 {
			out.Endpoints = append(out.Endpoints, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 42, byte(i), byte(10*j + i&7)}), 8080))
		}
		return out
	}
	pools := map[service.Frontend]service.Pool{}
	for i := range 10_000 {
		pools[front(i)] = pool(i)
	}
	b.Run("all", func(b *testing.B) {
		used := cpuTime(b)
		for b.Loop() {
			if err := p.Replace(maps.Clone(pools)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric((cpuTime(b)-used).Seconds()*1e3/float64(b.N), "cpu-ms/op")
	})
	b.Run("one", func(b *testing.B) {
		now := pool(7)
		for i := 0; b.Loop(); i++ {
			next := pool(i % 1000)
			if err := p.Update([]service.Change{{Frontend: front(7), Old: &now, New: &next}}); err != nil {
				b.Fatal(err)
			}
			now = next
		}
	})
}

// cpuTime is what this process has used: on a busy machine it says more than a clock.
func cpuTime(tb testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
