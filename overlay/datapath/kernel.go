package datapath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kontiki/internal/dump"
)

// Kernel changes the network configuration of one network namespace.
type Kernel struct {
	ns netns.NsHandle
	h  *netlink.Handle
}

// Open returns the kernel of the network namespace ns (netns.None(): the
// process's own). The handle stays the caller's.
func Open(ns netns.NsHandle) (*Kernel, error) {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("talking to the kernel's network configuration (this needs root): %w", err)
	}
	return &Kernel{ns: ns, h: h}, nil
}

// Close ends the conversation; what was configured stays.
func (k *Kernel) Close() { k.h.Close() }

// FindUnderlay returns the device that holds addr; zero when there is none.
func (k *Kernel) FindUnderlay(addr netip.Addr) (Underlay, error) {
	if !addr.IsValid() {
		return Underlay{}, nil
	}
	addrs, err := dump.All(func() ([]netlink.Addr, error) { return k.h.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return Underlay{}, fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range addrs {
		if got, ok := netip.AddrFromSlice(a.IP); !ok || got.Unmap() != addr {
			continue
		}
		link, err := k.h.LinkByIndex(a.LinkIndex)
		if err != nil {
			return Underlay{}, fmt.Errorf("looking at the device of %s: %w", addr, err)
		}
		segment, _ := prefixOf(a.IPNet)
		return Underlay{Addr: addr, Segment: segment.Masked(), Index: a.LinkIndex, MTU: link.Attrs().MTU}, nil
	}
	return Underlay{}, nil
}

// Apply makes the kernel hold what is wanted and returns what it had to change,
// in words. It goes on after a failure, so that one thing in the way does not
// keep the rest from working; the errors come back joined.
func (k *Kernel) Apply(w Wanted) (changes []string, err error) {
	c := &change{Kernel: k}
	c.sysctl("net/ipv4/ip_forward", "1")
	bridge := c.bridge(w.Bridge)
	tunnel := c.tunnel(w.Tunnel)
	if bridge != nil {
		c.addrs(bridge, w.Bridge.Addrs)
		c.ports(bridge, w.Ports)
	}
	if tunnel != nil {
		c.addrs(tunnel, w.Tunnel.Addrs)
		c.forwards(tunnel, w.Forwards)
		c.neighbours(tunnel, w.Neighbours)
	}
	c.routes(w.Routes, bridge, tunnel, w.Underlay)
	return c.done, errors.Join(c.errs...)
}

// change is one run of Apply.
type change struct {
	*Kernel
	done []string
	errs []error
}

// did notes a change, or why it failed.
func (c *change) did(err error, format string, args ...any) bool {
	what := fmt.Sprintf(format, args...)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("%s: %w", what, err))
		return false
	}
	c.done = append(c.done, what)
	return true
}

func (c *change) sysctl(name, want string) {
	path := "/proc/sys/" + name
	err := Within(c.ns, func() error {
		got, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(got)) == want {
			return errUnchanged
		}
		return os.WriteFile(path, []byte(want), 0)
	})
	if !errors.Is(err, errUnchanged) {
		c.did(err, "set %s to %s", name, want)
	}
}

// unfiltered lets packets in where the route to their source does not lead, as
// replies may come. The kernel takes the stricter of "all" and the device, and any
// check costs a lookup a packet: none where "all" has none, else the loose one.
func (c *change) unfiltered(device string) {
	want := "2"
	err := Within(c.ns, func() error {
		all, err := os.ReadFile("/proc/sys/net/ipv4/conf/all/rp_filter")
		if err == nil && strings.TrimSpace(string(all)) == "0" {
			want = "0"
		}
		return err
	})
	if err != nil {
		c.did(err, "look at the reverse path filter")
		return
	}
	c.sysctl("net/ipv4/conf/"+device+"/rp_filter", want)
}

var errUnchanged = errors.New("unchanged")

// find returns a link by name, nil when there is none. ok is false when it could
// not be found out.
func (c *change) find(name string) (link netlink.Link, ok bool) {
	link, err := c.h.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, true
	}
	if err != nil {
		c.did(err, "look at device %s", name)
		return nil, false
	}
	return link, true
}

func (c *change) bridge(want *Bridge) netlink.Link {
	if want == nil {
		return nil
	}
	link, ok := c.find(BridgeName)
	if !ok {
		return nil
	}
	if link != nil && link.Type() != "bridge" {
		c.did(fmt.Errorf("it exists and is a %s: remove or rename it", link.Type()), "make bridge %s", BridgeName)
		return nil
	}
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.MTU = BridgeName, want.MAC, want.MTU
		if !c.did(c.h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}), "make bridge %s", BridgeName) {
			return nil
		}
		if link, ok = c.find(BridgeName); !ok || link == nil {
			return nil
		}
	}
	c.attrs(link, want.MAC, want.MTU)
	c.unfiltered(BridgeName)
	// Lets a connection to a node port at 127.0.0.1 leave for a pod; what comes in
	// for 127.0.0.1 is dropped by the nftables chain "guard".
	c.sysctl("net/ipv4/conf/"+BridgeName+"/route_localnet", "1")
	// Pods of one bridge reach each other through the node. Telling them of a
	// shorter way would be wrong (they have no such route) and uses up what the
	// kernel allows of ICMP, refusals included, towards a pod. The kernel tells if
	// either "all" or the device says so; other devices keep their own.
	c.sysctl("net/ipv4/conf/all/send_redirects", "0")
	c.sysctl("net/ipv4/conf/"+BridgeName+"/send_redirects", "0")
	return link
}

func (c *change) tunnel(want *Tunnel) netlink.Link {
	link, ok := c.find(TunnelName)
	if !ok {
		return nil
	}
	if want == nil {
		// The device stays while the node's own address is away: what it needs to
		// forward again when the address comes back is still there.
		return nil
	}
	if link != nil && !sameTunnel(link, want) {
		if link.Type() != "vxlan" {
			c.did(fmt.Errorf("it exists and is a %s: remove or rename it", link.Type()), "make tunnel %s", TunnelName)
			return nil
		}
		if !c.did(c.h.LinkDel(link), "remove tunnel %s, which no longer fits the underlay", TunnelName) {
			return nil
		}
		link = nil
	}
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.MTU = TunnelName, want.MAC, want.MTU
		dev := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: VNI, VtepDevIndex: want.Parent, SrcAddr: want.Local.AsSlice(), Port: Port, Learning: false}
		if !c.did(c.h.LinkAdd(dev), "make tunnel %s from %s", TunnelName, want.Local) {
			return nil
		}
		if link, ok = c.find(TunnelName); !ok || link == nil {
			return nil
		}
	}
	c.attrs(link, want.MAC, want.MTU)
	c.unfiltered(TunnelName)
	c.sysctl("net/ipv4/conf/"+TunnelName+"/route_localnet", "1")
	return link
}

func sameTunnel(link netlink.Link, want *Tunnel) bool {
	v, ok := link.(*netlink.Vxlan)
	return ok && v.VxlanId == VNI && v.Port == Port && !v.Learning && v.VtepDevIndex == want.Parent && v.SrcAddr.Equal(want.Local.AsSlice())
}

// attrs puts hardware address, MTU and state of one of our own devices right.
func (c *change) attrs(link netlink.Link, mac net.HardwareAddr, mtu int) {
	a := link.Attrs()
	if mac != nil && !slices.Equal(a.HardwareAddr, mac) {
		c.did(c.h.LinkSetHardwareAddr(link, mac), "set hardware address of %s to %s", a.Name, mac)
	}
	if mtu != 0 && a.MTU != mtu {
		c.did(c.h.LinkSetMTU(link, mtu), "set MTU of %s to %d", a.Name, mtu)
	}
	if a.Flags&net.FlagUp == 0 {
		c.did(c.h.LinkSetUp(link), "bring %s up", a.Name)
	}
}

// addrs makes the device hold exactly the wanted IPv4 addresses.
func (c *change) addrs(link netlink.Link, want []netip.Prefix) {
	have, err := dump.All(func() ([]netlink.Addr, error) { return c.h.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		c.did(err, "list addresses of %s", link.Attrs().Name)
		return
	}
	missing := map[netip.Prefix]bool{}
	for _, p := range want {
		missing[p] = true
	}
	for i := range have {
		p, ok := prefixOf(have[i].IPNet)
		if ok && missing[p] {
			delete(missing, p)
			continue
		}
		c.did(c.h.AddrDel(link, &have[i]), "remove address %s of %s", have[i].IPNet, link.Attrs().Name)
	}
	for _, p := range want {
		if missing[p] {
			c.did(c.h.AddrReplace(link, &netlink.Addr{IPNet: ipnet(p)}), "give %s address %s", link.Attrs().Name, p)
		}
	}
}

// ports hangs the pods' links on the bridge and removes links of pods that are
// no more. Links that are missing are made by whoever knows the pod's namespace.
func (c *change) ports(bridge netlink.Link, want []string) {
	links, err := dump.All(c.h.LinkList)
	if err != nil {
		c.did(err, "list devices")
		return
	}
	hairpins, err := c.hairpins()
	if err != nil {
		c.did(err, "list the ports of %s", BridgeName)
		return
	}
	for _, link := range links {
		a := link.Attrs()
		if link.Type() != "veth" || !strings.HasPrefix(a.Name, portPrefix) {
			continue
		}
		if _, found := slices.BinarySearch(want, a.Name); !found {
			if len(a.Name) == len(PortName("")) {
				c.did(c.h.LinkDel(link), "remove link %s, whose pod is gone", a.Name)
			}
			continue
		}
		c.port(bridge, link, hairpins)
	}
}

func (c *change) port(bridge, link netlink.Link, hairpins map[int]bool) {
	a := link.Attrs()
	if a.MasterIndex != bridge.Attrs().Index {
		err := c.h.LinkSetMaster(link, bridge)
		if errors.Is(err, unix.ENODEV) {
			return // its pod is being detached
		}
		if !c.did(err, "put %s on %s", a.Name, BridgeName) {
			return
		}
	}
	if !hairpins[a.Index] {
		err := c.h.LinkSetHairpin(link, true)
		if errors.Is(err, unix.ENODEV) {
			return
		}
		c.did(err, "let %s send back what it came from", a.Name)
	}
	if a.Flags&net.FlagUp == 0 {
		c.did(c.h.LinkSetUp(link), "bring %s up", a.Name)
	}
}

// hairpins returns the bridge ports, by index, that may send a frame back where
// it came from. One dump for all ports: the library's call makes one per port.
func (c *change) hairpins() (map[int]bool, error) {
	on := map[int]bool{}
	err := Within(c.ns, func() error {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
		msgs, err := req.Execute(unix.NETLINK_ROUTE, 0)
		if err != nil {
			return err
		}
		for _, m := range msgs {
			info := nl.DeserializeIfInfomsg(m)
			attrs, err := nl.ParseRouteAttr(m[info.Len():])
			if err != nil {
				return err
			}
			for _, attr := range attrs {
				if attr.Attr.Type != unix.IFLA_PROTINFO|unix.NLA_F_NESTED {
					continue
				}
				ports, err := nl.ParseRouteAttr(attr.Value)
				if err != nil {
					return err
				}
				for _, p := range ports {
					if p.Attr.Type == nl.IFLA_BRPORT_MODE && len(p.Value) > 0 && p.Value[0] != 0 {
						on[int(info.Index)] = true
					}
				}
			}
		}
		return nil
	})
	return on, err
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), true
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
