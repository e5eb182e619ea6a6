package nft

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// markMasquerade is the bit of the packet mark that asks for masquerading; the
// same bit that kube-proxy uses, so that other tools know to leave it alone.
const markMasquerade = 0x4000

// Registers of four bytes, for concatenations.
const (
	reg0 = unix.NFT_REG32_00
	reg1 = unix.NFT_REG32_01
	reg2 = unix.NFT_REG32_02
	reg3 = unix.NFT_REG32_03
	reg4 = unix.NFT_REG32_04
	reg5 = unix.NFT_REG32_05
	reg6 = unix.NFT_REG32_06
)

// rule is groups of expressions; each group is one thing one would say.
type rule [][]expr.Any

func (r rule) exprs() []expr.Any {
	var out []expr.Any
	for _, g := range r {
		out = append(out, g...)
	}
	return out
}

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

// reset and unreachable refuse a packet; the first is for TCP and, unlike ICMP,
// not limited to one a second for each client.
func reset() []expr.Any { return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }

func unreachable() []expr.Any {
	const port = 3 // of ICMP's codes
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: port}}
}

func protocol(number byte) []expr.Any {
	return []expr.Any{loadProto(1), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}}}
}

func oif(op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

func iifnameNot(name string) []expr.Any {
	e := oif(expr.CmpOpNeq, name)
	e[0] = &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}
	return e
}

func oifname(name string) []expr.Any    { return oif(expr.CmpOpEq, name) }
func oifnameNot(name string) []expr.Any { return oif(expr.CmpOpNeq, name) }

const (
	offsetSource      = 12 // in the IPv4 header
	offsetDestination = 16
)

func loadAddr(offset, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}
}

func loadPort(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func loadProto(register uint32) expr.Any {
	return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}
}

func addrIn(op expr.CmpOp, offset uint32, p netip.Prefix) []expr.Any {
	p = p.Masked()
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	return []expr.Any{
		loadAddr(offset, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: addr4(p.Addr())},
	}
}

func from(p netip.Prefix) []expr.Any { return addrIn(expr.CmpOpEq, offsetSource, p) }
func to(p netip.Prefix) []expr.Any   { return addrIn(expr.CmpOpEq, offsetDestination, p) }

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// guardRules keep out what claims to be for 127.0.0.1 and comes from elsewhere: the
// devices of the pod network would let it in, so that node ports answer there
// (route_localnet). And they keep conntrack from the tunnels' own packets, each of
// whose ways has a source port of its own that is never answered: it would look
// twice at all that crosses, and its table would fill with what nobody asks for.
// What nearly no packet fulfils comes first: all are asked.
func guardRules(b Base) []rule {
	rules := []rule{{to(loopback), iifnameNot("lo"), {&expr.Verdict{Kind: expr.VerdictDrop}}}}
	if b.TunnelPort != 0 {
		// Not those of a pod that has something to say to that port of others.
		rules = append(rules, rule{toUDP(b.TunnelPort), toSelf(), iifnameNot(b.Bridge), {&expr.Notrack{}}})
	}
	return rules
}

// untrackedRules are the same for tunnel packets on their way out.
func untrackedRules(b Base) []rule {
	if b.TunnelPort == 0 {
		return nil
	}
	r := rule{toUDP(b.TunnelPort)}
	for _, cidr := range ipv4(b.ServiceCIDRs) {
		r = append(r, addrIn(expr.CmpOpNeq, offsetDestination, cidr)) // a Service may have that port
	}
	return []rule{append(r, []expr.Any{&expr.Notrack{}})}
}

func toUDP(port uint16) []expr.Any {
	return append(protocol(unix.IPPROTO_UDP), loadPort(1), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(port >> 8), byte(port)}})
}

// toSelf matches what is for an address of the node.
func toSelf() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}
}

// serviceRules send a new connection to the chain of its Service, or of the
// node's port.
func (l *layout) serviceRules(b Base) []rule {
	var reachable []expr.Any
	if !b.Loopback {
		reachable = addrIn(expr.CmpOpNeq, offsetDestination, loopback)
	}
	return []rule{
		{{
			loadAddr(offsetDestination, reg0), loadProto(reg1), loadPort(reg2),
			&expr.Lookup{SourceRegister: reg0, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: l.services.Name, SetID: l.services.ID},
		}},
		{
			reachable,
			toSelf(),
			{
				loadProto(reg0), loadPort(reg1),
				&expr.Lookup{SourceRegister: reg0, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: l.nodeports.Name, SetID: l.nodeports.ID},
			},
		},
	}
}

// frontend loads what the client connects to, as the keys of maps have it.
func (k chainKind) frontend(addr, proto, port uint32) []expr.Any {
	address := loadAddr(offsetDestination, addr)
	if k.anyAddr {
		address = &expr.Immediate{Register: addr, Data: make([]byte, 4)}
	}
	return []expr.Any{address, loadProto(proto), loadPort(port)}
}

// chainRules are the rules of a shared chain: those that balance, or the gate before
// them for frontends that are not for all.
func (l *layout) chainRules(k chainKind) []rule {
	if !k.sources.restricted {
		return l.balanceRules(k)
	}
	return l.sourceRules(k)
}

// sourceRules let clients of the frontend's networks on to the chain that balances,
// and drop the others. There is one lookup for each length of prefix that the
// frontend's networks have; how many networks, and Services, there are costs nothing.
// The length is part of the key: a network must not admit who shares its address only.
func (l *layout) sourceRules(k chainKind) []rule {
	var rules []rule
	for _, length := range k.sources.list() {
		mask := binary.BigEndian.AppendUint32(nil, uint32(^uint64(0)<<(32-length)))
		rules = append(rules, rule{k.frontend(reg0, reg1, reg2), {
			loadAddr(offsetSource, reg3),
			&expr.Bitwise{SourceRegister: reg3, DestRegister: reg3, Len: 4, Mask: mask, Xor: make([]byte, 4)},
			&expr.Immediate{Register: reg4, Data: binary.NativeEndian.AppendUint32(nil, uint32(length))},
			&expr.Lookup{SourceRegister: reg0, SetName: l.sources.Name, SetID: l.sources.ID},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: k.open().String()},
		}})
	}
	return append(rules, rule{{&expr.Verdict{Kind: expr.VerdictDrop}}})
}

// balanceRules pick one of k.endpoints and translate to it. With affinity the
// endpoint that the client had before comes first, if it still is one; another is
// remembered; and when there is no room to remember, the last rule does without.
func (l *layout) balanceRules(k chainKind) []rule {
	var rules []rule
	if k.masquerade {
		bit := binary.NativeEndian.AppendUint32(nil, markMasquerade)
		rest := binary.NativeEndian.AppendUint32(nil, ^uint32(markMasquerade))
		rules = append(rules, rule{{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: rest, Xor: bit},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
		}})
	}
	// Registers: 0 the client, 1 to 3 the frontend; then what is looked up.
	frontend := k.frontend(reg1, reg2, reg3)
	pick := []expr.Any{
		&expr.Numgen{Register: reg4, Modulus: uint32(k.endpoints), Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: reg1, DestRegister: reg5, IsDestRegSet: true, SetName: l.endpoints.Name, SetID: l.endpoints.ID},
	}
	if k.affinity > 0 {
		client := []expr.Any{loadAddr(offsetSource, reg0)}
		rules = append(rules, rule{
			client, frontend,
			{
				&expr.Lookup{SourceRegister: reg0, DestRegister: reg4, IsDestRegSet: true, SetName: l.affinity.Name, SetID: l.affinity.ID},
				&expr.Lookup{SourceRegister: reg1, SetName: l.sticky.Name, SetID: l.sticky.ID},
				l.remember(unix.NFT_DYNSET_OP_UPDATE, k, reg4), translate(reg4, reg5),
			},
		}, rule{
			// An update leaves what is there as it is but for its time, so what leads to
			// an endpoint that is gone is forgotten first.
			client, frontend, pick,
			{l.remember(dynsetDelete, k, reg5), l.remember(unix.NFT_DYNSET_OP_UPDATE, k, reg5), translate(reg5, reg6)},
		})
	}
	return append(rules, rule{frontend, pick, {translate(reg5, reg6)}})
}

// dynsetDelete is NFT_DYNSET_OP_DELETE of linux/netfilter/nf_tables.h (Linux 5.4).
const dynsetDelete = 2

// remember writes which endpoint (in the two registers from data on) the client
// has, or that it has it for longer.
func (l *layout) remember(op uint32, k chainKind, data uint32) expr.Any {
	return &expr.Dynset{
		SrcRegKey: reg0, SrcRegData: data, SetName: l.affinity.Name, SetID: l.affinity.ID,
		Operation: op, Timeout: k.affinity,
	}
}

func translate(addr, port uint32) expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: addr, RegProtoMin: port}
}

// knownRule lets packets of connections pass that were looked at when they began.
func knownRule() rule {
	states := binary.NativeEndian.AppendUint32(nil, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	return rule{{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: states, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}, accept()}
}

// refuseRules answer what leads nowhere at once, instead of letting it time out:
// frontends without endpoints, and all of the Services' range that no Service
// has (what has one carries an endpoint's address by now).
func (l *layout) refuseRules(b Base) []rule {
	matches := []rule{{{
		loadAddr(offsetDestination, reg0), loadProto(reg1), loadPort(reg2),
		&expr.Lookup{SourceRegister: reg0, SetName: l.refused.Name, SetID: l.refused.ID},
	}}}
	for _, cidr := range ipv4(b.ServiceCIDRs) {
		matches = append(matches, rule{to(cidr)})
	}
	rules := []rule{knownRule()}
	for _, m := range matches {
		rules = append(rules, rule{m[0], protocol(unix.IPPROTO_TCP), reset()}, rule{m[0], unreachable()})
	}
	return rules
}

func (l *layout) masqueradeRules(b Base) []rule {
	bit := binary.NativeEndian.AppendUint32(nil, markMasquerade)
	multicast := netip.MustParsePrefix("224.0.0.0/4")
	rules := []rule{
		{oifname("lo"), accept()},
		{from(loopback), masquerade()}, // a node port at 127.0.0.1, which means another host elsewhere
		{
			oifnameNot(b.Bridge),
			{
				&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: bit, Xor: make([]byte, 4)},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: bit},
			},
			masquerade(),
		},
		{ // a pod that reached itself through a Service would answer itself directly
			oifname(b.Bridge),
			{
				loadAddr(offsetSource, reg0), loadAddr(offsetDestination, reg1),
				&expr.Lookup{SourceRegister: reg0, SetName: l.hairpin.Name, SetID: l.hairpin.ID},
			},
			masquerade(),
		},
		{oifname(b.Bridge), accept()},
	}
	// Other nodes know the way back to addresses of the cluster only.
	for _, cidr := range ipv4(b.ClusterCIDRs) {
		rules = append(rules, rule{oifname(b.Tunnel), from(cidr), accept()})
	}
	rules = append(rules, rule{oifname(b.Tunnel), masquerade()})
	for _, cidr := range ipv4(b.ClusterCIDRs) {
		rules = append(rules, rule{to(cidr), accept()})
	}
	rules = append(rules, rule{to(multicast), accept()})
	for _, s := range ipv4(b.Subnets) {
		rules = append(rules, rule{from(s), masquerade()})
	}
	return rules
}

func ipv4(in []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range in {
		if p.Addr().Is4() {
			out = append(out, p)
		}
	}
	return out
}
