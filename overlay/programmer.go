package overlay

import (
	"fmt"
	"log/slog"
	"net/netip"

	"kontiki/overlay/datapath"
	"kontiki/overlay/ipam"
	"kontiki/overlay/nft"
	"kontiki/overlay/service"
)

// programmer is nftables, and conntrack beside it: a client of UDP that goes on
// sending from one port keeps its translation for ever, also to an endpoint that
// is gone.
type programmer struct {
	*nft.Programmer
	kernel *datapath.Kernel
	log    *slog.Logger
}

// Update implements service.Programmer.
func (p programmer) Update(changes []service.Change) error {
	if err := p.Programmer.Update(changes); err != nil {
		return err
	}
	var gone []datapath.Translation
	for _, ch := range changes {
		if ch.Frontend.Protocol != service.UDP || ch.Old == nil {
			continue
		}
		still := map[netip.AddrPort]bool{}
		if ch.New != nil {
			for _, ep := range ch.New.Endpoints {
				still[ep] = true
			}
		}
		for _, ep := range ch.Old.Endpoints {
			if !still[ep] {
				gone = append(gone, datapath.Translation{Frontend: ch.Frontend.Addr, Port: ch.Frontend.Port, Endpoint: ep})
			}
		}
	}
	if err := p.kernel.ForgetUDP(gone); err != nil {
		// New clients are served right; those that keep sending are not until
		// their entry times out.
		p.log.Warn("UDP clients of removed endpoints may hang", "error", err)
	}
	return nil
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
