package lab

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kontiki/internal/dump"
)

// labNet is where labs take their bridges' subnets (a /24 each) from.
var labNet = netip.MustParsePrefix("172.29.0.0/16")

// mtu is that of an ordinary Ethernet.
const mtu = 1500

// freeSubnet is the first /24 of labNet on which this machine has no address.
func freeSubnet() (netip.Prefix, error) {
	taken, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Prefix{}, err
	}
	for i := range 256 {
		raw := labNet.Addr().As4()
		raw[2] = byte(i)
		subnet := netip.PrefixFrom(netip.AddrFrom4(raw), 24)
		free := true
		for _, addr := range taken {
			if prefix, err := netip.ParsePrefix(addr.String()); err == nil && prefix.Overlaps(subnet) {
				free = false
			}
		}
		if free {
			return subnet, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("all of %s is in use on this machine", labNet)
}

func (l *Lab) makeBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = l.bridge(), mtu
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make bridge %s: %w", attrs.Name, err)
	}
	if err := netlink.AddrAdd(bridge, &netlink.Addr{IPNet: ipNet(l.gateway(), l.subnet)}); err != nil {
		return fmt.Errorf("give bridge %s the address %s: %w", attrs.Name, l.gateway(), err)
	}
	return netlink.LinkSetUp(bridge)
}

// port is the name of the machine's end of a host's cable. Names are short, so
// the lab's name goes in as a hash.
func (h *Host) port() string {
	return fmt.Sprintf("kl%06x-%s", h.lab.hash(), h.Name)
}

// hash is 24 bits of the lab's name.
func (l *Lab) hash() uint32 {
	sum := fnv.New32a()
	sum.Write([]byte(l.cfg.Name))
	return sum.Sum32() & 0xffffff
}

// plug connects the host's namespace to the bridge by a veth pair.
func (h *Host) plug(netns int) error {
	bridge, err := netlink.LinkByName(h.lab.bridge())
	if err != nil {
		return fmt.Errorf("bridge %s: %w", h.lab.bridge(), err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = h.port(), mtu, bridge.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: h.mac(), PeerNamespace: netlink.NsFd(netns)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make cable %s: %w", attrs.Name, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return err
	}
	inside, err := handleAt(netns)
	if err != nil {
		return err
	}
	defer inside.Close()
	for _, name := range []string{"lo", "eth0"} {
		link, err := inside.LinkByName(name)
		if err != nil {
			return err
		}
		if err := inside.LinkSetUp(link); err != nil {
			return err
		}
	}
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	return h.address(inside, eth0)
}

// removeLinks removes the lab's bridge and the cables on it.
func (l *Lab) removeLinks() error {
	links, err := dump.All(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	prefix := strings.TrimSuffix((&Host{lab: l}).port(), "-") + "-"
	for _, link := range links {
		name := link.Attrs().Name
		if name != l.bridge() && !strings.HasPrefix(name, prefix) {
			continue
		}
		// A cable goes by itself when the namespace at its other end does.
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove link %s: %w", name, err)
		}
	}
	return nil
}

func ipNet(addr netip.Addr, prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(prefix.Bits(), addr.BitLen())}
}
