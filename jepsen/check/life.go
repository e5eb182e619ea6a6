package check

import (
	"cmp"
	"slices"
)

// Life is for how long somebody certainly had a name, or an address: at Since, at Until,
// and at any time between.
type Life struct {
	Name         string
	Who          string
	Since, Until int64
	Place        int64 // in the history
}

// Alone tells where two had one name at a time.
func Alone(lives []Life) []Anomaly {
	sorted := slices.SortedFunc(slices.Values(lives), func(a, b Life) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Since, b.Since))
	})
	var found []Anomaly
	var last Life // of those that began so far with the name, the one that lasts longest
	for _, l := range sorted {
		if l.Name != last.Name {
			last = l
			continue
		}
		if l.Since < last.Until {
			found = append(found, anomaly("two at a time", "%s and %s both were %s", last.Who, l.Who, l.Name).at(l.Place, last.Place))
		}
		if l.Until > last.Until {
			last = l
		}
	}
	return found
}
