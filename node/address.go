package node

import (
	"fmt"
	"net"
	"net/netip"
)

// ownAddress is the address from which this machine reaches others: that of the
// route to the outside, else the first address that is not of this machine
// alone. Zero when there is none yet.
func ownAddress() netip.Addr {
	// Connecting a UDP socket sends nothing; it only asks the kernel for a route.
	// The address is one reserved for documentation (RFC 5737).
	if conn, err := net.Dial("udp", "192.0.2.1:9"); err == nil {
		addr := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		conn.Close()
		if !addr.IsLoopback() {
			return addr
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().IsGlobalUnicast() && prefix.Addr().Is4() {
			return prefix.Addr()
		}
	}
	return netip.Addr{}
}

// ownNetworks are the networks that this machine is on, without those of devices
// left out and of the machine alone.
func ownNetworks(without func(device string) bool) (networks []network, err error) {
	devices, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list this machine's network devices: %w", err)
	}
	for _, d := range devices {
		if without(d.Name) {
			continue
		}
		addrs, err := d.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list the addresses of %s: %w", d.Name, err)
		}
		for _, a := range addrs {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().IsGlobalUnicast() {
				networks = append(networks, network{d.Name, prefix})
			}
		}
	}
	return networks, nil
}

// advertise is the address by which others reach this node.
func (n *node) advertise() netip.Addr {
	if n.cfg.Advertise.IsValid() {
		return n.cfg.Advertise
	}
	return ownAddress()
}
