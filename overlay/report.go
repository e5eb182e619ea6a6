package overlay

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"kontiki/overlay/datapath"
	"kontiki/overlay/dns"
	"kontiki/overlay/service"
)

// Report is what a node says of its pod network.
type Report struct {
	Node    string         `json:"node"`
	NodeID  string         `json:"nodeID"`
	Ready   string         `json:"ready"` // "yes", or why no pod can be attached
	Subnets []netip.Prefix `json:"subnets"`
	Address netip.Addr     `json:"address"` // on the underlay
	MTU     int            `json:"mtu"`     // of pods
	Backend string         `json:"backend"`
	// ServiceCIDRs are the ranges of Services that packets are led to.
	ServiceCIDRs []netip.Prefix  `json:"serviceCIDRs"`
	Leases       []LeaseReport   `json:"leases"`
	Pods         []PodReport     `json:"pods"`
	Services     []ServiceReport `json:"services"`
	DNS          dns.Stats       `json:"dns"`
	// Differences are what was not as it should be when the report was made, and
	// whether it was put right.
	Differences []string `json:"differences"`
}

// LeaseReport is one node's share of the pod network.
type LeaseReport struct {
	NodeID   string         `json:"nodeID"`
	Subnets  []netip.Prefix `json:"subnets"`
	Address  netip.Addr     `json:"address"`
	MAC      string         `json:"mac"`
	MTU      int            `json:"mtu"`
	Grant    uint64         `json:"grant"` // revision
	Sequence uint64         `json:"sequence"`
	// Used says whether packets take this way: "own", "yes", or why not.
	Used string `json:"used"`
}

// PodReport is one pod that is attached.
type PodReport struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	UID       string       `json:"uid"`
	Addresses []netip.Addr `json:"addresses"`
	HostPorts []HostPort   `json:"hostPorts,omitempty"`
}

// ServiceReport is one frontend and what is behind it.
type ServiceReport struct {
	Frontend  string           `json:"frontend"` // address:port/protocol; "node" for any address of the node
	Endpoints []netip.AddrPort `json:"endpoints"`
	Affinity  string           `json:"affinity,omitempty"`
	// Sources are the networks whose clients are let in, "nobody" for none; left out
	// when all are.
	Sources []string `json:"sources,omitempty"`
}

// Report compares the kernel with what should be, puts right what differs, and
// tells.
func (n *Network) Report() Report {
	ready := "yes"
	if err := n.Ready(); err != nil {
		ready = err.Error()
	}
	n.mu.Lock()
	r := Report{Node: n.cfg.NodeName, NodeID: n.cfg.NodeID, Ready: ready}
	err := n.reconcileLocked()
	for _, c := range n.changes {
		r.Differences = append(r.Differences, "put right: "+c)
	}
	r.Differences = append(r.Differences, n.said...)
	if err != nil {
		r.Differences = append(r.Differences, "not put right: "+err.Error())
	}
	r.Subnets, r.Address, r.MTU = slices.Clone(n.grant.Subnets), n.cfg.Underlay(), n.mtu
	r.Backend, r.ServiceCIDRs = string(n.cfg.Backend), n.serviceRangesLocked()
	under, _ := n.kernel.FindUnderlay(n.cfg.Underlay()) // what fails here failed above
	wanted, _ := datapath.Plan(n.inputLocked(under))
	n.mu.Unlock()

	r.Leases = leaseReports(n.cfg.NodeID, n.cfg.Leases.Leases(), wanted)
	for _, rec := range n.book.Records() {
		r.Pods = append(r.Pods, PodReport{Namespace: rec.Namespace, Name: rec.Name, UID: rec.UID, Addresses: rec.Addrs, HostPorts: rec.HostPorts})
	}
	slices.SortFunc(r.Pods, func(a, b PodReport) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	repaired, err := n.watcher.Repair()
	if repaired {
		r.Differences = append(r.Differences, "put right: Services in nftables")
	}
	if err != nil {
		r.Differences = append(r.Differences, "not put right: Services in nftables: "+err.Error())
	}
	for f, pool := range n.watcher.All() {
		r.Services = append(r.Services, serviceReport(f, pool))
	}
	slices.SortFunc(r.Services, func(a, b ServiceReport) int { return cmp.Compare(a.Frontend, b.Frontend) })
	if n.dns != nil {
		r.DNS = n.dns.Stats()
	}
	return r
}

// Ways tells of each node's share of the pod network, and looks whether the kernel leads
// there now. Unlike Report it puts nothing right; it may be asked often.
func (n *Network) Ways() ([]LeaseReport, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	under, err := n.kernel.FindUnderlay(n.cfg.Underlay())
	if err != nil {
		return nil, err
	}
	wanted, _ := datapath.Plan(n.inputLocked(under))
	lacking, err := n.kernel.Lacking(wanted)
	if err != nil {
		return nil, err
	}
	ways := leaseReports(n.cfg.NodeID, n.cfg.Leases.Leases(), wanted)
	for i := range ways {
		for _, subnet := range ways[i].Subnets {
			if what := lacking[subnet.Masked()]; what != "" && ways[i].Used == usedYes {
				ways[i].Used = "no: " + what
			}
		}
	}
	return ways, nil
}

const (
	usedOwn = "own"
	usedYes = "yes"
)

// leaseReports says of each lease whether the kernel's routes are to follow it.
func leaseReports(self string, leases []Lease, wanted datapath.Wanted) []LeaseReport {
	var out []LeaseReport
	for _, l := range leases {
		e := l.Endpoint
		r := LeaseReport{
			NodeID: l.NodeID, Subnets: l.Subnets, Address: e.Addr, MAC: e.MAC.String(), MTU: e.MTU,
			Grant: l.GrantRevision, Sequence: e.Sequence,
		}
		switch {
		case l.NodeID == self:
			r.Used = usedOwn
		case !e.Addr.IsValid() || len(l.Subnets) == 0:
			r.Used = "no: the node has not said where its tunnel ends"
		case slices.ContainsFunc(l.Subnets, func(s netip.Prefix) bool { return leadsTo(wanted, s, r) }):
			r.Used = usedYes
		default:
			r.Used = "no: the subnet belongs to another node now, or to none while this node has no address"
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b LeaseReport) int { return cmp.Compare(a.NodeID, b.NodeID) })
	return out
}

// leadsTo says whether the planned way to a subnet ends at the lease's node.
func leadsTo(w datapath.Wanted, subnet netip.Prefix, l LeaseReport) bool {
	i := slices.IndexFunc(w.Routes, func(r datapath.Route) bool { return r.Dst == subnet.Masked() && r.Via.IsValid() })
	if i < 0 {
		return false
	}
	via := w.Routes[i].Via
	return via == l.Address || slices.Contains(w.Neighbours, datapath.Neighbour{Addr: via, MAC: l.MAC})
}

func serviceReport(f service.Frontend, pool service.Pool) ServiceReport {
	at := "node"
	if f.Addr.IsValid() {
		at = f.Addr.String()
	}
	name := map[service.Protocol]string{service.TCP: "tcp", service.UDP: "udp", service.SCTP: "sctp"}[f.Protocol]
	r := ServiceReport{Frontend: fmt.Sprintf("%s:%d/%s", at, f.Port, name), Endpoints: pool.Endpoints}
	if pool.Affinity > 0 {
		r.Affinity = strings.TrimSuffix(pool.Affinity.String(), "0m0s")
	}
	for _, s := range pool.Sources {
		r.Sources = append(r.Sources, s.String())
	}
	if pool.Restricted && len(pool.Sources) == 0 {
		r.Sources = []string{"nobody"}
	}
	return r
}
