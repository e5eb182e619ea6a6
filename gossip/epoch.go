package gossip

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// A blank node may have members of several epochs of one cluster in its ring: a part that
// was recovered, and the rest, which does not know of it yet. It turns to the latest.

// compareEpochs orders epochs by their numbers: "" is the first, "2-…" the second. Of two
// that have one number, the order is any, but the same on every node.
func compareEpochs(a, b string) int {
	return cmp.Or(cmp.Compare(epochNumber(a), epochNumber(b)), cmp.Compare(a, b))
}

func epochNumber(e string) uint64 {
	number, _, _ := strings.Cut(e, "-")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return 1
	}
	return n
}

// LatestEpoch returns those of a cluster's members that are of the latest epoch in sight.
func LatestEpoch(members []Member) []Member {
	latest := ""
	for _, m := range members {
		if compareEpochs(m.Epoch, latest) > 0 {
			latest = m.Epoch
		}
	}
	return slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return m.Epoch != latest })
}

// latestEpochs are, by cluster, the latest epochs of which a living member is in touch.
func (d *directory) latestEpochs() map[string]string {
	latest := map[string]string{}
	for _, e := range d.members {
		if e.State == StateAlive && e.met && !e.leaving && compareEpochs(e.Epoch, latest[e.ClusterID]) > 0 {
			latest[e.ClusterID] = e.Epoch
		}
	}
	return latest
}
