package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kontiki/internal/dump"
)

// Hosts know each other by name from a file of the lab that lies over each one's
// /etc/hosts, so that --join holds when addresses change.

func (l *Lab) namesPath() string { return filepath.Join(l.dir(), "hosts") }

// writeNames writes in place: a bind mount keeps showing the file it was made of.
func (l *Lab) writeNames() error {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, h := range l.hosts {
		fmt.Fprintf(&b, "%s %s\n", h.Addr, h.Name)
	}
	return os.WriteFile(l.namesPath(), []byte(b.String()), 0o644)
}

// newHost adds the next host to the lab's list.
func (l *Lab) newHost() (*Host, error) {
	if len(l.hosts) >= maxHosts {
		return nil, fmt.Errorf("a lab has at most %d hosts", maxHosts)
	}
	h := &Host{Name: "n" + strconv.Itoa(len(l.hosts)+1), lab: l}
	var err error
	if h.Addr, err = l.freshAddr(); err != nil {
		return nil, err
	}
	l.hosts = append(l.hosts, h)
	return h, nil
}

// freshAddr is the address that was free for longest.
func (l *Lab) freshAddr() (netip.Addr, error) {
	taken := map[netip.Addr]bool{}
	for _, h := range l.hosts {
		taken[h.Addr] = true
	}
	for range lastHost - firstHost + 1 {
		if l.last++; l.last < firstHost || l.last > lastHost {
			l.last = firstHost
		}
		if addr := addrAt(l.subnet, l.last); !taken[addr] {
			return addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("all addresses of %s are in use", l.subnet)
}

// Add makes one more host. Its node is not started.
func (l *Lab) Add() (*Host, error) {
	var added *Host
	err := l.change(func() (err error) {
		added, err = l.newHost()
		return err
	}, func() error {
		if err := l.writeNames(); err != nil {
			return err
		}
		if err := added.create(); err != nil {
			return fmt.Errorf("make host %s: %w", added.Name, err)
		}
		return nil
	})
	return added, err
}

// Readdress gives hosts addresses that they did not have before. What runs there
// has to find out by itself.
func (l *Lab) Readdress(hosts ...*Host) error {
	return l.change(func() (err error) {
		for _, h := range hosts {
			if h.Addr, err = l.freshAddr(); err != nil {
				return err
			}
		}
		return nil
	}, func() error {
		for _, h := range hosts {
			if err := h.readdress(); err != nil {
				return fmt.Errorf("give %s the address %s: %w", h.Name, h.Addr, err)
			}
		}
		return l.writeNames()
	})
}

// readdress makes Addr the one address of eth0. Routes by the old one go with it.
func (h *Host) readdress() error {
	netns, err := os.Open(h.netnsPin())
	if err != nil {
		return err
	}
	defer netns.Close()
	inside, err := handleAt(int(netns.Fd()))
	if err != nil {
		return err
	}
	defer inside.Close()
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	old, err := dump.All(func() ([]netlink.Addr, error) { return inside.AddrList(eth0, netlink.FAMILY_V4) })
	if err != nil {
		return err
	}
	for _, addr := range old {
		if err := inside.AddrDel(eth0, &addr); err != nil {
			return fmt.Errorf("remove %s: %w", addr.IP, err)
		}
	}
	return h.address(inside, eth0)
}

// address gives eth0 the host's address and a way out through it.
func (h *Host) address(inside *netlink.Handle, eth0 netlink.Link) error {
	if err := inside.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(h.Addr, h.lab.subnet)}); err != nil {
		return fmt.Errorf("give %s the address %s: %w", h.Name, h.Addr, err)
	}
	return inside.RouteReplace(&netlink.Route{Gw: h.lab.gateway().AsSlice()})
}

// Reboot ends all that runs on the host at once, as a loss of power does, and
// leaves it with nothing but its disk. The node is not started.
func (h *Host) Reboot() error {
	return h.lab.change(func() error { return nil }, h.powerCycle)
}

// Wipe ends all that runs on the host and empties its disk. The node is not started.
func (h *Host) Wipe() error {
	return h.lab.change(func() error { return nil }, func() error {
		if err := h.powerOff(); err != nil {
			return err
		}
		if err := os.RemoveAll(h.DataDir()); err != nil {
			return err
		}
		return h.create()
	})
}

func (h *Host) powerCycle() error {
	if err := h.powerOff(); err != nil {
		return err
	}
	return h.create()
}

// powerOff takes away what a machine without power does not have: processes,
// mounts, network.
func (h *Host) powerOff() error {
	if err := killCgroup(h.cgroup()); err != nil {
		return err
	}
	if pid, err := h.lastPid(); err == nil {
		reap(pid)
	}
	for _, pin := range []string{h.netnsPin(), h.mntnsPin()} {
		if err := unmountAll(pin); err != nil {
			return err
		}
	}
	if link, err := netlink.LinkByName(h.port()); err == nil {
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove link %s: %w", h.port(), err)
		}
	} else if !errors.As(err, &netlink.LinkNotFoundError{}) {
		return err
	}
	return removeCgroup(h.cgroup())
}
