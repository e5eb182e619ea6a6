package nft

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"kontiki/overlay/service"
)

// intactLocked compares the kernel's table with what was programmed: chains by
// name and number of rules, elements by key and by what they lead to.
func (p *Programmer) intactLocked() (bool, error) {
	c, err := p.conn()
	if err != nil {
		return false, err
	}
	rules := map[string]int{
		"guard": len(guardRules(p.base)), "untracked": len(untrackedRules(p.base)), "services": 2, "prerouting": 1, "output": 1,
		"postrouting": len(p.layout.masqueradeRules(p.base)),
		"forward":     len(p.layout.refuseRules(p.base)),
	}
	rules["refuse-output"] = 1 + rules["forward"]
	for k := range p.layout.chains {
		rules[k.String()] = len(p.layout.chainRules(k))
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, err
	}
	for _, ch := range chains {
		if ch.Table.Name != TableName {
			continue
		}
		have, err := c.GetRules(p.layout.table, ch)
		if err != nil {
			return false, err
		}
		if want, ok := rules[ch.Name]; !ok || want != len(have) {
			return false, fmt.Errorf("chain %s has %d rules", ch.Name, len(have))
		}
		delete(rules, ch.Name)
	}
	if len(rules) > 0 {
		return false, fmt.Errorf("chains are missing: %v", rules)
	}
	want := newDelta()
	for f, pool := range p.pools {
		want.change(service.Change{Frontend: f, New: &pool})
	}
	for addr := range p.hairpins {
		want.add(hairpinSet, hairpinElement(addr))
	}
	for _, s := range p.layout.sets() {
		have, err := c.GetSetElements(s)
		if err != nil {
			return false, err
		}
		if !sameElements(want.adds[setName(s.Name)], have) {
			return false, fmt.Errorf("set %s differs", s.Name)
		}
	}
	return true, nil
}

func sameElements(want, have []nftables.SetElement) bool {
	if len(want) != len(have) {
		return false
	}
	by := make(map[string]string, len(want))
	for _, e := range want {
		by[string(e.Key)] = leadsTo(e)
	}
	for _, e := range have {
		if to, ok := by[string(e.Key)]; !ok || to != leadsTo(e) {
			return false
		}
	}
	return true
}

// leadsTo is what an element leads to: a chain, or the bytes of an endpoint. The
// library leaves a verdict that it read as the kernel wrote it.
func leadsTo(e nftables.SetElement) string {
	if e.VerdictData != nil {
		return e.VerdictData.Chain
	}
	if chain, ok := verdictChain(e.Val); ok {
		return chain
	}
	return string(e.Val)
}

// verdictChain reads the chain's name out of NFTA_DATA_VERDICT's contents.
func verdictChain(raw []byte) (string, bool) {
	const endpoint = 8 // bytes of the other kind of value
	if len(raw) <= endpoint {
		return "", false
	}
	ad, err := netlink.NewAttributeDecoder(raw)
	if err != nil {
		return "", false
	}
	for ad.Next() {
		if ad.Type() == unix.NFTA_VERDICT_CHAIN {
			return ad.String(), true
		}
	}
	return "", false
}
