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
	chains           map[chainKind]*nftables.Chain
}

// chainKind tells the shared chains apart.
type chainKind struct {
	endpoints  int
	anyAddr    bool // a port of the node
	masquerade bool
	affinity   time.Duration
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
	return name
}

func kindOf(f service.Frontend, p service.Pool) chainKind {
	return chainKind{len(p.Endpoints), !f.Addr.IsValid(), p.Masquerade, p.Affinity}
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
	return []*nftables.Set{l.services, l.nodeports, l.endpoints, l.refused, l.hairpin, l.sticky}
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
	ch := c.AddChain(&nftables.Chain{Table: l.table, Name: k.String()})
	for _, r := range l.balanceRules(k) {
		c.AddRule(&nftables.Rule{Table: l.table, Chain: ch, Exprs: r.exprs()})
	}
	l.chains[k] = ch
}
