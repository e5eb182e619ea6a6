package podsubnet

import (
	"cmp"
	"fmt"
	"math/big"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// pool is the cluster's range, cut into equal subnets numbered from 0.
type pool struct {
	cluster netip.Prefix
	bits    int // prefix length of one subnet
}

func newPool(cluster netip.Prefix, bits int) (pool, error) {
	if !cluster.IsValid() || bits < cluster.Bits() || bits > cluster.Addr().BitLen() || bits-cluster.Bits() > 20 {
		return pool{}, fmt.Errorf("cluster CIDR %v cannot be cut into subnets of /%d: choose a node prefix length of %d to %d",
			cluster, bits, cluster.Bits(), min(cluster.Addr().BitLen(), cluster.Bits()+20))
	}
	return pool{cluster.Masked(), bits}, nil
}

func (p pool) size() int { return 1 << (p.bits - p.cluster.Bits()) }

func (p pool) subnet(n int) netip.Prefix {
	base := new(big.Int).SetBytes(p.cluster.Addr().AsSlice())
	step := new(big.Int).Lsh(big.NewInt(int64(n)), uint(p.cluster.Addr().BitLen()-p.bits))
	raw := base.Add(base, step).FillBytes(make([]byte, p.cluster.Addr().BitLen()/8))
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(addr, p.bits)
}

// overlapping are the numbers of the subnets a prefix touches; a node may hold
// one that was granted under another prefix length.
func (p pool) overlapping(prefix netip.Prefix) (first, last int, ok bool) {
	if !p.cluster.Overlaps(prefix) {
		return 0, 0, false
	}
	if prefix.Bits() <= p.cluster.Bits() {
		return 0, p.size() - 1, true
	}
	offset := new(big.Int).Sub(new(big.Int).SetBytes(prefix.Masked().Addr().AsSlice()), new(big.Int).SetBytes(p.cluster.Addr().AsSlice()))
	first = int(offset.Rsh(offset, uint(p.cluster.Addr().BitLen()-p.bits)).Int64())
	return first, first + 1<<max(0, p.bits-prefix.Bits()) - 1, true
}

// grant gives a subnet to a node.
type grant struct {
	Node   string       `json:"node"`
	UID    string       `json:"uid,omitempty"`
	Subnet netip.Prefix `json:"subnet"`
}

// decision is what plan answers.
type decision struct {
	Grants    []grant  `json:"grants,omitempty"`
	Exhausted []string `json:"exhausted,omitempty"` // nodes that get nothing: the range is used up
	Next      int      `json:"next"`                // where to look first the next time
}

// plan gives each node without a subnet one that no other node holds and no pod is
// left in. made are grants by node UID the nodes may not show yet. The search goes
// round from next, so that a released subnet rests as long as possible.
func plan(p pool, nodes []*corev1.Node, pods []*corev1.Pod, made map[string]netip.Prefix, next int) decision {
	used, highest := map[int]bool{}, -1
	mark := func(prefix netip.Prefix) {
		if first, last, ok := p.overlapping(prefix); ok {
			for n := first; n <= last; n++ {
				used[n] = true
				highest = max(highest, n)
			}
		}
	}
	var waiting []*corev1.Node
	for _, node := range nodes {
		cidrs := held(node)
		if len(cidrs) == 0 {
			if prefix, ok := made[string(node.UID)]; ok {
				mark(prefix)
			} else if node.DeletionTimestamp == nil {
				waiting = append(waiting, node)
			}
		}
		for _, prefix := range cidrs {
			mark(prefix)
		}
	}
	if len(waiting) > 0 {
		// A pod may outlive its Node object, on a machine that runs on or as the
		// endpoint of a Service: what is sent to it must not reach another's pods.
		for _, pod := range pods {
			for _, addr := range addressesOf(pod) {
				mark(netip.PrefixFrom(addr, addr.BitLen()))
			}
		}
	}
	slices.SortFunc(waiting, func(a, b *corev1.Node) int {
		return cmp.Or(a.CreationTimestamp.Time.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	if next == 0 {
		next = highest + 1 // a new leader goes on where the last one was
	}
	d := decision{}
	for i, node := range waiting {
		n, ok := free(used, next, p.size())
		if !ok { // nor is there for those behind it
			for _, late := range waiting[i:] {
				d.Exhausted = append(d.Exhausted, late.Name)
			}
			break
		}
		used[n], next = true, n+1
		d.Grants = append(d.Grants, grant{node.Name, string(node.UID), p.subnet(n)})
	}
	d.Next = next
	return d
}

func free(used map[int]bool, next, size int) (int, bool) {
	for i := range size {
		if n := (next + i) % size; !used[n] {
			return n, true
		}
	}
	return 0, false
}

// addressesOf are the addresses that a pod still has.
func addressesOf(pod *corev1.Pod) (addrs []netip.Addr) {
	if pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

func held(node *corev1.Node) []netip.Prefix {
	texts := node.Spec.PodCIDRs
	if len(texts) == 0 && node.Spec.PodCIDR != "" {
		texts = []string{node.Spec.PodCIDR}
	}
	var prefixes []netip.Prefix
	for _, text := range texts {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			prefixes = append(prefixes, prefix)
		}
	}
	return prefixes
}
