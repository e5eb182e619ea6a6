package nemesis

import (
	"fmt"
	"slices"
	"testing"
)

func TestTargets(t *testing.T) {
	hosts := []string{"n1", "n2", "n3", "n4", "n5"}
	d := Draw{Order: []uint64{50, 40, 30, 20, 10}}
	for leader, want := range map[bool]string{false: "[n5 n4 n3 n2 n1]", true: "[n2 n5 n4 n3 n1]"} {
		d.Leader = leader
		if got := fmt.Sprint(d.targets(hosts, "n2")); got != want {
			t.Errorf("the leader first: %v: %s, want %s", leader, got, want)
		}
	}
	if got := d.targets(hosts, ""); len(got) != 5 || !slices.Contains(got, "n1") {
		t.Errorf("without a leader: %v", got)
	}
	for share, want := range map[float64]int{0: 1, 0.5: 1, 0.8: 2, 0.99: 5} {
		d.Share = share
		if got := len(d.some(hosts)); got != want {
			t.Errorf("share %v: %d hosts, want %d", share, got, want)
		}
	}
}

// Every kind has what it needs: a name that is its own, a sentence, a way to strike.
func TestKinds(t *testing.T) {
	seen := make(map[string]bool)
	for _, k := range kinds() {
		if k.name == "" || k.about == "" || k.strike == nil || seen[k.name] || About(k.name) != k.about {
			t.Errorf("%+v", k)
		}
		seen[k.name] = true
	}
}
