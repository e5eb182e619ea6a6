package gossip

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/hashicorp/memberlist"
	"pgregory.net/rapid"
)

// TestInstall goes from any keys to any keys.
func TestInstall(t *testing.T) {
	key := func(i int) []byte {
		if i == 0 {
			return nil
		}
		return bytes.Repeat([]byte{byte(i)}, keyLen)
	}
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) Keys {
			return Keys{Primary: key(rapid.IntRange(1, 4).Draw(t, name)), Also: key(rapid.IntRange(0, 4).Draw(t, name+" also"))}
		}
		from, to := draw("from"), draw("to")
		ring, err := memberlist.NewKeyring(from.accepted(), from.Primary)
		if err != nil {
			t.Fatal(err)
		}
		if err := install(ring, to); err != nil {
			t.Fatal(err)
		}
		want, err := memberlist.NewKeyring(to.accepted(), to.Primary)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(ring.GetKeys(), want.GetKeys()) {
			t.Errorf("the ring has %x, want %x", ring.GetKeys(), want.GetKeys())
		}
	})
}
