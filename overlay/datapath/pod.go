package datapath

// A pod's link: a pair of virtual devices, one end on the bridge, the other
// eth0 in the pod. The pod's address is a single one (/32) and all it knows is
// the way to the gateway, so that also pods of one node reach each other
// through the node's forwarding: what translates Services then sees both
// directions, whether or not the kernel filters bridged frames.

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kontiki/internal/dump"
)

// podDevice is the name of the pod's end.
const podDevice = "eth0"

// Pod is the link of one pod.
type Pod struct {
	UID     string
	NetNS   string // path
	Addr    netip.Addr
	Gateway netip.Addr
	MTU     int
}

// ErrNoNamespace says that the pod's network namespace is not there (any more).
var ErrNoNamespace = errors.New("the pod's network namespace is gone")

// AttachPod makes the pod's link, or puts it right. It may be repeated.
func (k *Kernel) AttachPod(p Pod) error {
	ns, err := netns.GetFromPath(p.NetNS)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNoNamespace, p.NetNS, err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNoNamespace, p.NetNS, err)
	}
	defer inside.Close()
	bridge, err := k.h.LinkByName(BridgeName)
	if err != nil {
		return fmt.Errorf("looking at bridge %s: %w", BridgeName, err)
	}
	host, err := k.linkPod(p, ns, inside, bridge)
	if err != nil {
		return err
	}
	if err := configurePod(p, inside); err != nil {
		return err
	}
	if host.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := k.h.LinkSetMaster(host, bridge); err != nil {
			return fmt.Errorf("putting %s on %s: %w", host.Attrs().Name, BridgeName, err)
		}
	}
	if err := k.h.LinkSetHairpin(host, true); err != nil {
		return fmt.Errorf("letting %s send back what it came from: %w", host.Attrs().Name, err)
	}
	if host.Attrs().MTU != p.MTU {
		if err := k.h.LinkSetMTU(host, p.MTU); err != nil {
			return fmt.Errorf("setting the MTU of %s to %d: %w", host.Attrs().Name, p.MTU, err)
		}
	}
	return k.h.LinkSetUp(host)
}

// linkPod finds the node's end of the pod's link if its other end is in ns, and
// makes a new pair otherwise.
func (k *Kernel) linkPod(p Pod, ns netns.NsHandle, inside *netlink.Handle, bridge netlink.Link) (netlink.Link, error) {
	name := PortName(p.UID)
	var missing netlink.LinkNotFoundError
	host, err := k.h.LinkByName(name)
	if err == nil {
		peer, perr := inside.LinkByName(podDevice)
		if perr == nil && peer.Type() == "veth" && peer.Attrs().ParentIndex == host.Attrs().Index && host.Attrs().ParentIndex == peer.Attrs().Index {
			return host, nil
		}
		if err := k.h.LinkDel(host); err != nil {
			return nil, fmt.Errorf("removing the pod's old link %s: %w", name, err)
		}
	} else if !errors.As(err, &missing) {
		return nil, fmt.Errorf("looking at %s: %w", name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = name, p.MTU, bridge.Attrs().Index
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: podDevice, PeerNamespace: netlink.NsFd(ns), PeerMTU: uint32(p.MTU), PeerHardwareAddr: podMAC(p.Addr)}
	if err := k.h.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("making the pod's link %s: %w", name, err)
	}
	return k.h.LinkByName(name)
}

func configurePod(p Pod, inside *netlink.Handle) error {
	if lo, err := inside.LinkByName("lo"); err == nil {
		if err := inside.LinkSetUp(lo); err != nil {
			return fmt.Errorf("bringing the pod's lo up: %w", err)
		}
	}
	eth, err := inside.LinkByName(podDevice)
	if err != nil {
		return fmt.Errorf("looking at the pod's %s: %w", podDevice, err)
	}
	if eth.Attrs().MTU != p.MTU {
		if err := inside.LinkSetMTU(eth, p.MTU); err != nil {
			return fmt.Errorf("setting the pod's MTU to %d: %w", p.MTU, err)
		}
	}
	if err := inside.AddrReplace(eth, &netlink.Addr{IPNet: ipnet(netip.PrefixFrom(p.Addr, p.Addr.BitLen()))}); err != nil {
		return fmt.Errorf("giving the pod address %s: %w", p.Addr, err)
	}
	if err := inside.LinkSetUp(eth); err != nil {
		return fmt.Errorf("bringing the pod's %s up: %w", podDevice, err)
	}
	index := eth.Attrs().Index
	toGateway := &netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: ipnet(netip.PrefixFrom(p.Gateway, p.Gateway.BitLen()))}
	if err := inside.RouteReplace(toGateway); err != nil {
		return fmt.Errorf("giving the pod a route to its gateway %s: %w", p.Gateway, err)
	}
	everywhere := &netlink.Route{LinkIndex: index, Dst: ipnet(netip.PrefixFrom(netip.IPv4Unspecified(), 0)), Gw: p.Gateway.AsSlice()}
	if err := inside.RouteReplace(everywhere); err != nil {
		return fmt.Errorf("giving the pod its default route: %w", err)
	}
	return nil
}

// PodLinks returns the MTU of each pod's link on the node's side, by its name.
func (k *Kernel) PodLinks() (map[string]int, error) {
	links, err := dump.All(k.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing devices: %w", err)
	}
	out := map[string]int{}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, portPrefix) {
			out[l.Attrs().Name] = l.Attrs().MTU
		}
	}
	return out, nil
}

// DetachPod removes the pod's link. A pod without one is no error.
func (k *Kernel) DetachPod(uid string) error {
	link, err := k.h.LinkByName(PortName(uid))
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at the pod's link %s: %w", PortName(uid), err)
	}
	if err := k.h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing the pod's link %s: %w", PortName(uid), err)
	}
	return nil
}

// HasBridge says whether the bridge is there.
func (k *Kernel) HasBridge() bool {
	_, err := k.h.LinkByName(BridgeName)
	return err == nil
}
