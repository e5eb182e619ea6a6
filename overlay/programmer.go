package overlay

import (
	"fmt"
	"net/netip"
	"slices"

	"kontiki/overlay/datapath"
	"kontiki/overlay/ipam"
	"kontiki/overlay/nft"
	"kontiki/overlay/service"
)

// programmer is nftables, and conntrack beside it, which would go on sending clients
// where they were sent before.
type programmer struct {
	*nft.Programmer
	forget  *forgetter
	figures *figures
}

// Replace implements service.Programmer. What an earlier process left in conntrack
// is put right, too: endpoints may have gone while there was none.
func (p programmer) Replace(pools map[service.Frontend]service.Pool) error {
	now := map[datapath.Frontend][]netip.AddrPort{}
	for f, pool := range pools {
		if f.Protocol != service.SCTP {
			now[tracked(f)] = pool.Endpoints
		}
	}
	if err := timed(p.figures.full, func() error { return p.Programmer.Replace(pools) }); err != nil {
		return err
	}
	p.forget.add(now)
	return nil
}

// Update implements service.Programmer.
func (p programmer) Update(changes []service.Change) error {
	now := map[datapath.Frontend][]netip.AddrPort{}
	for _, ch := range changes {
		if !redirects(ch) {
			continue
		}
		var endpoints []netip.AddrPort
		if ch.New != nil {
			endpoints = ch.New.Endpoints
		}
		now[tracked(ch.Frontend)] = endpoints
	}
	if err := timed(p.figures.part, func() error { return p.Programmer.Update(changes) }); err != nil {
		return err
	}
	p.forget.add(now)
	return nil
}

func tracked(f service.Frontend) datapath.Frontend {
	return datapath.Frontend{Protocol: uint8(f.Protocol), Addr: f.Addr, Port: f.Port}
}

// redirects says whether clients that were served right before a change may not be
// any more: endpoints went or, for UDP, the first ones came (TCP was refused before).
// Another endpoint beside those there are concerns nobody.
func redirects(ch service.Change) bool {
	switch {
	case ch.Frontend.Protocol == service.SCTP:
		return false
	case ch.Old == nil || len(ch.Old.Endpoints) == 0:
		return ch.Frontend.Protocol == service.UDP && ch.New != nil && len(ch.New.Endpoints) > 0
	}
	return slices.ContainsFunc(ch.Old.Endpoints, func(ep netip.AddrPort) bool {
		return ch.New == nil || !slices.Contains(ch.New.Endpoints, ep)
	})
}

// setHostPorts puts a pod's host ports in force, or takes them away when the
// record has none.
func (n *Network) setHostPorts(rec ipam.Record) error {
	pools := map[service.Frontend]service.Pool{}
	for _, hp := range rec.HostPorts {
		proto, ok := service.ParseProtocol(hp.Protocol)
		if !ok {
			return fmt.Errorf("host port %d of pod %s/%s: protocol %q is unknown, use TCP, UDP or SCTP", hp.HostPort, rec.Namespace, rec.Name, hp.Protocol)
		}
		host := hp.HostIP
		if host.IsUnspecified() {
			host = netip.Addr{}
		}
		for _, addr := range rec.Addrs {
			if addr.Is4() && (!host.IsValid() || host.Is4()) {
				pools[service.Frontend{Addr: host, Protocol: proto, Port: hp.HostPort}] = service.Pool{Endpoints: []netip.AddrPort{netip.AddrPortFrom(addr, hp.ContainerPort)}}
			}
		}
	}
	// No Service's key holds a colon.
	return n.watcher.SetOwner("pod:"+rec.UID, pools)
}
