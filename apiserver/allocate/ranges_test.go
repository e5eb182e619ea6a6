package allocate

import (
	"errors"
	"net/netip"
	"testing"
)

func TestBlocks(t *testing.T) {
	for text, want := range map[string]struct {
		size, offset uint64
		first, last  string // usable ones; empty: there is none
		outside      []string
	}{
		"10.43.0.0/16":   {65534, 256, "10.43.0.1", "10.43.255.254", []string{"10.43.0.0", "10.43.255.255", "10.44.0.1", "fd00::1"}},
		"10.43.0.0/28":   {14, 0, "10.43.0.1", "10.43.0.14", []string{"10.43.0.0", "10.43.0.15"}},
		"10.43.0.0/30":   {2, 0, "10.43.0.1", "10.43.0.2", []string{"10.43.0.3"}},
		"10.43.0.0/31":   {0, 0, "", "", []string{"10.43.0.0", "10.43.0.1"}},
		"10.43.0.0/32":   {0, 0, "", "", []string{"10.43.0.0"}},
		"0.0.0.0/0":      {1<<32 - 2, 256, "0.0.0.1", "255.255.255.254", []string{"255.255.255.255"}},
		"fd00:43::/112":  {65535, 256, "fd00:43::1", "fd00:43::ffff", []string{"fd00:43::", "fd00:43::1:0"}},
		"fd00:43::/64":   {1<<maxHostBits - 1, 256, "fd00:43::1", "fd00:43::3fff:ffff:ffff:ffff", []string{"fd00:43::"}},
		"fd00:43::f/128": {0, 0, "", "", []string{"fd00:43::f"}},
	} {
		b := newBlock(netip.MustParsePrefix(text))
		if b.size != want.size || b.offset != want.offset {
			t.Errorf("%s has %d addresses, the dynamic ones from %d; want %d and %d", text, b.size, b.offset, want.size, want.offset)
		}
		if want.first != "" {
			for i, at := range map[uint64]string{0: want.first, b.size - 1: want.last} {
				if got := b.at(i); got.String() != at || !b.contains(got) {
					t.Errorf("%s: number %d is %s, want %s, and it is in the range: %t", text, i, got, at, b.contains(got))
				}
			}
		}
		for _, ip := range want.outside {
			if b.contains(netip.MustParseAddr(ip)) {
				t.Errorf("%s has %s", text, ip)
			}
		}
	}
}

// TestPickUsesTheStaticPartLast fills a range by what is picked.
func TestPickUsesTheStaticPartLast(t *testing.T) {
	const size, offset = 40, 16
	taken := map[uint64]bool{}
	for n := range uint64(size) {
		i, err := pick(size, offset, func(i uint64) bool { return !taken[i] })
		if err != nil || taken[i] || i >= size {
			t.Fatalf("pick %d: %d, %v", n, i, err)
		}
		if (i < offset) != (n >= size-offset) {
			t.Errorf("pick %d is %d", n, i)
		}
		taken[i] = true
	}
	if _, err := pick(size, offset, func(i uint64) bool { return !taken[i] }); !errors.Is(err, ErrFull) {
		t.Errorf("a full range: %v", err)
	}
}
