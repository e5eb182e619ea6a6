package nft

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"

	"kontiki/overlay/service"
)

// TableName is the table of this package, in family ip.
const TableName = "kontiki"

// Base is what the table depends on besides the Services.
type Base struct {
	Subnets                    []netip.Prefix // of this node's pods
	ClusterCIDRs, ServiceCIDRs []netip.Prefix
	Bridge, Tunnel             string // names of devices
	// TunnelPort is the UDP port of the tunnels between nodes; 0: there are none.
	TunnelPort uint16
	// Loopback has ports of the node answer at 127.0.0.1, too. Packets from there leave
	// only by devices that were told to let them (route_localnet).
	Loopback bool
}

// layout is the table's parts, as the library wants them.
type layout struct {
	table                                            *nftables.Table
	services, nodeports, endpoints, refused, hairpin *nftables.Set
	// sticky holds (frontend . endpoint) of those with affinity, affinity what the
	// packets themselves wrote: (client . frontend) → endpoint, for a time.
	sticky, affinity *nftables.Set
	// sources holds (frontend . network . length) of clients that are let in, for
	// frontends that are not for all.
	sources *nftables.Set
	chains  map[chainKind]*nftables.Chain
}

// chainKind tells the shared chains apart.
type chainKind struct {
	endpoints  int
	anyAddr    bool // a port of the node
	masquerade bool
	affinity   time.Duration
	sources    lengths
}

// lengths tells for whom a chain is: open to all, or to clients of networks with one
// of the prefix lengths whose bits are set.
type lengths struct {
	restricted bool
	set        uint64
}

// open is the chain that balances those who were let in.
func (k chainKind) open() chainKind {
	k.sources = lengths{}
	return k
}

func (k chainKind) String() string {
	name := "lb"
	if k.anyAddr {
		name = "np"
	}
	name = fmt.Sprintf("%s-%d", name, k.endpoints)
	if k.masquerade {
		name += "-m"
	}
	if k.affinity > 0 {
		name += fmt.Sprintf("-a%d", int(k.affinity.Seconds()))
	}
	if k.sources.restricted {
		name += "-from"
		for _, length := range k.sources.list() {
			name += fmt.Sprintf("-%d", length)
		}
	}
	return name
}

func kindOf(f service.Frontend, p service.Pool) chainKind {
	k := chainKind{endpoints: len(p.Endpoints), anyAddr: !f.Addr.IsValid(), masquerade: p.Masquerade, affinity: p.Affinity}
	if p.Restricted {
		k.sources.restricted = true
		for _, s := range p.Sources {
			k.sources.set |= 1 << s.Bits()
		}
	}
	return k
}

// list is the lengths, the longest first.
func (l lengths) list() (out []int) {
	for length := 32; length >= 0; length-- {
		if l.set&(1<<length) != 0 {
			out = append(out, length)
		}
	}
	return out
}

func newLayout() *layout {
	t := &nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4}
	front := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	// Ids tell the sets of one transaction apart. The library would take them from
	// a counter of the whole process, without a lock.
	id := uint32(0)
	set := func(name string, key nftables.SetDatatype) *nftables.Set {
		id++
		return &nftables.Set{ID: id, Table: t, Name: name, KeyType: key, Concatenation: true}
	}
	dict := func(name string, key, data nftables.SetDatatype) *nftables.Set {
		s := set(name, key)
		s.IsMap, s.DataType = true, data
		return s
	}
	l := &layout{
		table:     t,
		services:  dict("services", front, nftables.TypeVerdict),
		nodeports: dict("nodeports", nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService), nftables.TypeVerdict),
		endpoints: dict("endpoints",
			nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeInteger),
			nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)),
		refused: set("refused", front),
		hairpin: set("hairpin", nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr)),
		sticky:  set("sticky", nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeIPAddr, nftables.TypeInetService)),
		sources: set("sources", nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeIPAddr, nftables.TypeInteger)),
		affinity: dict("affinity",
			nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
			nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)),
		chains: map[chainKind]*nftables.Chain{},
	}
	l.affinity.Dynamic, l.affinity.HasTimeout, l.affinity.Size = true, true, maxClients
	return l
}

// maxClients bounds how many clients are remembered; further ones are balanced.
const maxClients = 1 << 17

// sets are those whose elements are ours.
func (l *layout) sets() []*nftables.Set {
	return []*nftables.Set{l.services, l.nodeports, l.endpoints, l.refused, l.hairpin, l.sticky, l.sources}
}

// build adds the whole table but its elements and shared chains to the batch.
func (l *layout) build(c *nftables.Conn, b Base) error {
	c.AddTable(l.table)
	for _, s := range append(l.sets(), l.affinity) {
		if err := c.AddSet(s, nil); err != nil {
			return fmt.Errorf("planning set %s: %w", s.Name, err)
		}
	}
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Table: l.table, Name: name, Type: kind, Hooknum: hook, Priority: prio})
	}
	services := c.AddChain(&nftables.Chain{Table: l.table, Name: "services"})
	prerouting := chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	output := chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	postrouting := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	forward := chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	refuse := chain("refuse-output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
	guard := chain("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	untracked := chain("untracked", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw)
	rules := map[*nftables.Chain][]rule{
		guard:       guardRules(b),
		untracked:   untrackedRules(b),
		services:    l.serviceRules(b),
		prerouting:  {{jump("services")}},
		output:      {{jump("services")}},
		postrouting: l.masqueradeRules(b),
		forward:     l.refuseRules(b),
		refuse:      append([]rule{{oifname("lo"), accept()}}, l.refuseRules(b)...),
	}
	for _, ch := range []*nftables.Chain{guard, untracked, services, prerouting, output, postrouting, forward, refuse} {
		for _, r := range rules[ch] {
			c.AddRule(&nftables.Rule{Table: l.table, Chain: ch, Exprs: r.exprs()})
		}
	}
	return nil
}

// ensureChain adds a shared chain to the batch unless it is there.
func (l *layout) ensureChain(c *nftables.Conn, k chainKind) {
	if l.chains[k] != nil {
		return
	}
	if k.sources.restricted {
		l.ensureChain(c, k.open()) // it leads there
	}
	ch := c.AddChain(&nftables.Chain{Table: l.table, Name: k.String()})
	for _, r := range l.chainRules(k) {
		c.AddRule(&nftables.Rule{Table: l.table, Chain: ch, Exprs: r.exprs()})
	}
	l.chains[k] = ch
}
