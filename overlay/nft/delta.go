package nft

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"

	"kontiki/overlay/service"
)

type setName string

const (
	servicesSet  setName = "services"
	nodeportsSet setName = "nodeports"
	endpointsMap setName = "endpoints"
	refusedSet   setName = "refused"
	hairpinSet   setName = "hairpin"
	stickySet    setName = "sticky"
	sourcesSet   setName = "sources"
)

// delta is elements to remove and to add.
type delta struct {
	adds, removes map[setName][]nftables.SetElement
	kinds         map[chainKind]bool // shared chains that the additions need
}

func newDelta() *delta {
	return &delta{adds: map[setName][]nftables.SetElement{}, removes: map[setName][]nftables.SetElement{}, kinds: map[chainKind]bool{}}
}

func (d *delta) add(s setName, e nftables.SetElement) { d.adds[s] = append(d.adds[s], e) }

func (d *delta) remove(s setName, e nftables.SetElement) { d.removes[s] = append(d.removes[s], e) }

func (d *delta) empty() bool { return len(d.adds) == 0 && len(d.removes) == 0 }

func hairpinElement(a netip.Addr) nftables.SetElement {
	return nftables.SetElement{Key: join(addr4(a), addr4(a))}
}

// change works out the elements of one frontend: only what differs.
func (d *delta) change(ch service.Change) {
	oldSet, oldElement := entry(ch.Frontend, ch.Old)
	newSet, newElement := entry(ch.Frontend, ch.New)
	same := oldSet == newSet && (oldElement.VerdictData == nil && newElement.VerdictData == nil ||
		oldElement.VerdictData != nil && newElement.VerdictData != nil && *oldElement.VerdictData == *newElement.VerdictData)
	if !same && oldSet != "" {
		d.remove(oldSet, nftables.SetElement{Key: oldElement.Key})
	}
	if !same && newSet != "" {
		d.add(newSet, newElement)
	}
	var before, after []netip.AddrPort
	if ch.Old != nil {
		before = ch.Old.Endpoints
	}
	if ch.New != nil {
		after = ch.New.Endpoints
		if len(after) > 0 {
			d.kinds[kindOf(ch.Frontend, *ch.New)] = true
		}
	}
	d.stick(ch)
	d.admit(ch)
	for i := range max(len(before), len(after)) {
		if i < len(before) && i < len(after) && before[i] == after[i] {
			continue
		}
		if i < len(before) {
			d.remove(endpointsMap, endpointKey(ch.Frontend, i))
		}
		if i < len(after) {
			d.add(endpointsMap, endpointElement(ch.Frontend, i, after[i]))
		}
	}
}

// stick works out which endpoints clients may stay with.
func (d *delta) stick(ch service.Change) {
	held := func(p *service.Pool) map[netip.AddrPort]bool {
		out := map[netip.AddrPort]bool{}
		if p != nil && p.Affinity > 0 {
			for _, ep := range p.Endpoints {
				out[ep] = true
			}
		}
		return out
	}
	before, after := held(ch.Old), held(ch.New)
	for ep := range before {
		if !after[ep] {
			d.remove(stickySet, stickyElement(ch.Frontend, ep))
		}
	}
	for ep := range after {
		if !before[ep] {
			d.add(stickySet, stickyElement(ch.Frontend, ep))
		}
	}
}

// admit works out which clients a frontend that is not for all lets in.
func (d *delta) admit(ch service.Change) {
	sources := func(p *service.Pool) []netip.Prefix {
		if p == nil || !p.Restricted {
			return nil
		}
		return p.Sources
	}
	before, after := sources(ch.Old), sources(ch.New)
	for _, s := range before {
		if !slices.Contains(after, s) {
			d.remove(sourcesSet, sourceElement(ch.Frontend, s))
		}
	}
	for _, s := range after {
		if !slices.Contains(before, s) {
			d.add(sourcesSet, sourceElement(ch.Frontend, s))
		}
	}
}

// entry is where a frontend is found: in the map that leads to its chain or in
// the set of those to refuse. A port of the node without endpoints is in none:
// the kernel itself refuses it.
func entry(f service.Frontend, p *service.Pool) (setName, nftables.SetElement) {
	e := nftables.SetElement{Key: frontKey(f)}
	switch {
	case p == nil:
		return "", e
	case len(p.Endpoints) == 0 && !f.Addr.IsValid():
		return "", e
	case len(p.Endpoints) == 0:
		return refusedSet, e
	}
	e.VerdictData = verdict(kindOf(f, *p).String())
	if !f.Addr.IsValid() {
		return nodeportsSet, e
	}
	return servicesSet, e
}

// write adds the delta to a batch: what goes first, so that a key can come back
// with another value.
func (d *delta) write(c *nftables.Conn, l *layout) error {
	for k := range d.kinds {
		l.ensureChain(c, k)
	}
	for _, s := range l.sets() {
		for list := d.removes[setName(s.Name)]; len(list) > 0; {
			n := min(chunk, len(list))
			if err := c.SetDeleteElements(s, list[:n]); err != nil {
				return fmt.Errorf("planning %s: %w", s.Name, err)
			}
			list = list[n:]
		}
	}
	for _, s := range l.sets() {
		for list := d.adds[setName(s.Name)]; len(list) > 0; {
			n := min(chunk, len(list))
			if err := c.SetAddElements(s, list[:n]); err != nil {
				return fmt.Errorf("planning %s: %w", s.Name, err)
			}
			list = list[n:]
		}
	}
	return nil
}
