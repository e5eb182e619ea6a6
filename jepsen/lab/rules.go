package lab

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Faults are rules of nftables in the host's own network namespace, in a table
// that nothing else touches: at eth0 itself, before and after all that the node
// programs there. What leaves and enters the overlay passes eth0 inside UDP.
//
// A cut is dropped where it arrives, so that no sender is told of it. Senders are
// told apart by their Ethernet address: that stays when a host is readdressed,
// and covers ARP and multicast, too.

const faultTable = "kontiki-lab"

// lossScale is the resolution of losses: a hundredth of a percent.
const lossScale = 10000

// applyFaults makes the host's table what the lab's faults say, in one transaction.
func (h *Host) applyFaults() error {
	netns, err := os.Open(h.netnsPin())
	if err != nil {
		return err
	}
	defer netns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(netns.Fd())))
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: faultTable, Family: nftables.TableFamilyNetdev}
	conn.AddTable(table) // deleting what is not there would be an error
	conn.DelTable(table)
	in, out := h.rules()
	if len(in)+len(out) > 0 {
		conn.AddTable(table)
	}
	for _, chain := range []struct {
		name  string
		hook  *nftables.ChainHook
		rules [][]expr.Any
	}{{"ingress", nftables.ChainHookIngress, in}, {"egress", nftables.ChainHookEgress, out}} {
		if len(chain.rules) == 0 {
			continue
		}
		c := conn.AddChain(&nftables.Chain{
			Name: chain.name, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: chain.hook, Priority: nftables.ChainPriorityFirst, Device: "eth0",
		})
		for _, exprs := range chain.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: exprs})
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("program nftables: %w", err)
	}
	return nil
}

// rules are what to drop at eth0 on the way in and on the way out.
func (h *Host) rules() (in, out [][]expr.Any) {
	for _, f := range h.lab.faults {
		for _, sender := range h.deafTo(f) {
			other := Host{Name: sender, lab: h.lab}
			in = append(in, dropSender(other.mac(), f.Proto))
		}
		if f.Host == h.Name {
			in = append(in, dropShare(f))
			out = append(out, dropShare(f))
		}
	}
	return in, out
}

func dropSender(mac []byte, proto string) []expr.Any {
	rule := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: mac},
	}
	if number, ok := map[string]byte{"udp": unix.IPPROTO_UDP, "tcp": unix.IPPROTO_TCP}[proto]; ok {
		rule = append(rule,
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}})
	}
	return append(rule, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
}

func dropShare(f Fault) (rule []expr.Any) {
	if f.Ring {
		rule = append(rule,
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, ringPort)})
	}
	limit := binary.BigEndian.AppendUint32(nil, uint32(f.Loss*lossScale+0.5))
	return append(rule,
		&expr.Numgen{Register: 1, Modulus: lossScale, Type: unix.NFT_NG_RANDOM},
		// The number is in the machine's byte order, comparisons are of bytes.
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: limit},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop})
}

// mac is the Ethernet address of the host's eth0: one for each host of each lab,
// the same for all of the host's life.
func (h *Host) mac() []byte {
	number, _ := strconv.Atoi(strings.TrimPrefix(h.Name, "n"))
	sum := h.lab.hash()
	return []byte{0x02, 0x6b, byte(sum >> 16), byte(sum >> 8), byte(sum), byte(number)}
}
