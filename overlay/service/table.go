package service

import (
	"net/netip"
	"slices"
	"time"
)

// Protocol is a number of IANA's protocol registry.
type Protocol uint8

// The protocols that Services know.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// Frontend is what a client connects to.
type Frontend struct {
	Addr     netip.Addr // zero: any address of the node, 127.0.0.1 included
	Protocol Protocol
	Port     uint16
}

// Pool is what lies behind a frontend.
type Pool struct {
	// Endpoints in a fixed order without duplicates; none: connections are refused.
	Endpoints []netip.AddrPort
	// Masquerade hides the client's address from endpoints on other nodes, whose
	// answers would not come back through this one otherwise.
	Masquerade bool
	// Affinity keeps a client's connections on one endpoint until it has made none
	// for so long; 0: each connection is balanced anew.
	Affinity time.Duration
	// Restricted lets only clients with addresses of Sources in; the others' packets
	// are dropped. Sources are masked and sorted, each once.
	Restricted bool
	Sources    []netip.Prefix
}

// Equal says whether two pools are the same.
func (p Pool) Equal(q Pool) bool {
	return p.Masquerade == q.Masquerade && p.Affinity == q.Affinity && slices.Equal(p.Endpoints, q.Endpoints) &&
		p.Restricted == q.Restricted && slices.Equal(p.Sources, q.Sources)
}

// Change is what to do to one frontend: Old is nil when it is new, New is nil
// when it goes.
type Change struct {
	Frontend Frontend
	Old, New *Pool
}

// Table is the frontends of all owners. Should two owners claim one frontend, the
// first by name has it until it lets go.
type Table struct {
	owned  map[string]map[Frontend]Pool
	claims map[Frontend][]string
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{owned: map[string]map[Frontend]Pool{}, claims: map[Frontend][]string{}}
}

// Set replaces all frontends of an owner and returns what changed. Its cost is
// that of the owner's own frontends.
func (t *Table) Set(owner string, pools map[Frontend]Pool) []Change {
	touched := map[Frontend]*Pool{} // with what was effective before
	before := t.owned[owner]
	for f := range before {
		touched[f] = t.effective(f)
	}
	for f := range pools {
		touched[f] = t.effective(f)
	}
	for f := range before {
		if _, still := pools[f]; !still {
			t.unclaim(f, owner)
		}
	}
	for f := range pools {
		if i, found := slices.BinarySearch(t.claims[f], owner); !found {
			t.claims[f] = slices.Insert(t.claims[f], i, owner)
		}
	}
	if len(pools) == 0 {
		delete(t.owned, owner)
	} else {
		t.owned[owner] = pools
	}
	var changes []Change
	for f, old := range touched {
		now := t.effective(f)
		if old == nil && now == nil || old != nil && now != nil && old.Equal(*now) {
			continue
		}
		changes = append(changes, Change{Frontend: f, Old: old, New: now})
	}
	slices.SortFunc(changes, func(a, b Change) int { return compare(a.Frontend, b.Frontend) })
	return changes
}

func (t *Table) unclaim(f Frontend, owner string) {
	left := slices.DeleteFunc(t.claims[f], func(o string) bool { return o == owner })
	if len(left) == 0 {
		delete(t.claims, f)
	} else {
		t.claims[f] = left
	}
}

func (t *Table) effective(f Frontend) *Pool {
	if owners := t.claims[f]; len(owners) > 0 {
		p := t.owned[owners[0]][f]
		return &p
	}
	return nil
}

// All returns every frontend with the pool that is in effect.
func (t *Table) All() map[Frontend]Pool {
	all := make(map[Frontend]Pool, len(t.claims))
	for f := range t.claims {
		all[f] = *t.effective(f)
	}
	return all
}

// Owners returns the names of all owners that begin with prefix.
func (t *Table) Owners(prefix string) []string {
	var out []string
	for o := range t.owned {
		if len(o) >= len(prefix) && o[:len(prefix)] == prefix {
			out = append(out, o)
		}
	}
	slices.Sort(out)
	return out
}

func compare(a, b Frontend) int {
	if c := a.Addr.Compare(b.Addr); c != 0 {
		return c
	}
	if a.Protocol != b.Protocol {
		return int(a.Protocol) - int(b.Protocol)
	}
	return int(a.Port) - int(b.Port)
}
