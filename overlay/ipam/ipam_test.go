package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestBookAgainstRules drives a book with random pods, crashes and clocks: no two
// pods share an address, none has a reserved one, a pod keeps its own, what is on
// disk is what was said, and an address rests as long as others are free.
func TestBookAgainstRules(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		path := filepath.Join(dir, fmt.Sprint(run))
		now := time.Unix(1_700_000_000, 0)
		clock := func() time.Time { return now }
		subnet := netip.PrefixFrom(netip.MustParseAddr("10.42.7.0"), rapid.IntRange(25, 30).Draw(t, "bits"))
		first, last := Usable(subnet)
		open := func() *Book {
			b, err := Open(path, clock)
			if err != nil {
				t.Fatal(err)
			}
			b.SetSubnets([]netip.Prefix{subnet})
			return b
		}
		book := open()
		held := map[string]netip.Addr{}
		released := map[netip.Addr]time.Time{}
		size := 0
		for a := first; ; a = a.Next() {
			size++
			if a == last {
				break
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"allocate": func(t *rapid.T) {
				uid := fmt.Sprintf("pod-%d", rapid.IntRange(0, 150).Draw(t, "pod"))
				rec, err := book.Allocate(Record{UID: uid, NetNS: "/ns/" + uid})
				if was, ok := held[uid]; ok {
					if err != nil || rec.Addrs[0] != was {
						t.Fatalf("%s had %s and got %v, %v", uid, was, rec.Addrs, err)
					}
					return
				}
				if len(held) == size {
					if !errors.Is(err, ErrFull) {
						t.Fatalf("all %d addresses are held and there was another: %v, %v", size, rec, err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				addr := rec.Addrs[0]
				if addr.Less(first) || last.Less(addr) {
					t.Fatalf("%s is reserved or outside of %s", addr, subnet)
				}
				for other, a := range held {
					if a == addr {
						t.Fatalf("%s belongs to %s and was given to %s", addr, other, uid)
					}
				}
				if at, ok := released[addr]; ok && now.Sub(at) < hold {
					// Allowed only if no free address has rested, and then the oldest.
					for a := first; ; a = a.Next() {
						_, isHeld := heldBy(held, a)
						if rat, ok := released[a]; !isHeld && a != addr && (!ok || now.Sub(rat) >= hold || rat.Before(at)) {
							t.Fatalf("%s came back after %s although %s was free and had rested longer", addr, now.Sub(at), a)
						}
						if a == last {
							break
						}
					}
				}
				held[uid] = addr
			},
			"release": func(t *rapid.T) {
				uid := fmt.Sprintf("pod-%d", rapid.IntRange(0, 150).Draw(t, "pod"))
				if err := book.Release(uid); err != nil {
					t.Fatal(err)
				}
				if addr, ok := held[uid]; ok {
					released[addr] = now
					delete(held, uid)
				}
			},
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
			},
			"crash": func(t *rapid.T) { book = open() },
			"": func(t *rapid.T) {
				var want, have []string
				for uid, a := range held {
					want = append(want, uid+" "+a.String())
				}
				for _, r := range book.Records() {
					have = append(have, r.UID+" "+r.Addrs[0].String())
				}
				slices.Sort(want)
				slices.Sort(have)
				if !slices.Equal(want, have) {
					t.Fatalf("the book holds %v instead of %v", have, want)
				}
			},
		})
	})
}

func heldBy(held map[string]netip.Addr, addr netip.Addr) (string, bool) {
	for uid, a := range held {
		if a == addr {
			return uid, true
		}
	}
	return "", false
}

func TestFailedWriteChangesNothing(t *testing.T) {
	dir := t.TempDir()
	book, err := Open(filepath.Join(dir, "missing", "addresses.json"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	book.SetSubnets([]netip.Prefix{netip.MustParsePrefix("10.42.1.0/24")})
	if rec, err := book.Allocate(Record{UID: "a"}); err == nil {
		t.Fatalf("%v was given out though it could not be written down", rec)
	}
	if recs := book.Records(); len(recs) != 0 {
		t.Errorf("the book holds %v", recs)
	}
}

func TestNamespaceOf(t *testing.T) {
	book, err := Open(filepath.Join(t.TempDir(), "addresses.json"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	book.SetSubnets([]netip.Prefix{netip.MustParsePrefix("10.42.1.0/24")})
	for _, own := range []bool{false, true} {
		rec, err := book.Allocate(Record{UID: fmt.Sprint(own), Namespace: "shop", OwnPath: own})
		if err != nil {
			t.Fatal(err)
		}
		if namespace, plain := book.NamespaceOf(rec.Addrs[0]); plain == own || namespace != "shop" {
			t.Errorf("own path %v: namespace %q, plain path %v", own, namespace, plain)
		}
	}
}

func TestUsable(t *testing.T) {
	for _, tc := range []struct{ subnet, first, last string }{
		{"10.42.1.0/24", "10.42.1.2", "10.42.1.254"},
		{"10.42.1.128/30", "10.42.1.130", "10.42.1.130"},
		{"10.42.1.0/31", "", ""},
		{"10.42.1.0/32", "", ""},
		{"fd00:42::/64", "fd00:42::2", "fd00:42::ffff:ffff:ffff:ffff"},
	} {
		first, last := Usable(netip.MustParsePrefix(tc.subnet))
		want := func(s string) netip.Addr { a, _ := netip.ParseAddr(s); return a }
		if first != want(tc.first) || last != want(tc.last) {
			t.Errorf("Usable(%s) = %s, %s, want %s, %s", tc.subnet, first, last, tc.first, tc.last)
		}
	}
}
