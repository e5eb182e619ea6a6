package overlay

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kontiki/internal/dump"
	"kontiki/overlay/datapath"
	"kontiki/overlay/nft"
)

// snapshot lists what a namespace holds in links, addresses, routes, permanent
// neighbours and nftables.
func snapshot(t *testing.T, n *labNode) []string {
	t.Helper()
	h := handle(t, n.ns)
	var out []string
	links, err := dump.All(h.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		out = append(out, fmt.Sprintf("link %s %s %d", l.Attrs().Name, l.Type(), l.Attrs().MTU))
		addrs, _ := dump.All(func() ([]netlink.Addr, error) { return h.AddrList(l, netlink.FAMILY_V4) })
		for _, a := range addrs {
			out = append(out, fmt.Sprintf("addr %s %s", l.Attrs().Name, a.IPNet))
		}
		for _, family := range []int{netlink.FAMILY_V4, unix.AF_BRIDGE} {
			neighs, _ := dump.All(func() ([]netlink.Neigh, error) { return h.NeighList(l.Attrs().Index, family) })
			for _, e := range neighs {
				if e.State == unix.NUD_PERMANENT && l.Attrs().Name == datapath.TunnelName {
					out = append(out, fmt.Sprintf("neighbour %s %s %s", l.Attrs().Name, e.IP, e.HardwareAddr))
				}
			}
		}
	}
	routes, err := dump.All(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		out = append(out, fmt.Sprintf("route %s via %s", r.Dst, r.Gw))
	}
	c, err := nftables.New(nftables.WithNetNSFd(int(n.ns)))
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		sets, _ := c.GetSets(table)
		for _, s := range sets {
			elements, _ := c.GetSetElements(s)
			out = append(out, fmt.Sprintf("set %s/%s %d", table.Name, s.Name, len(elements)))
		}
		chains, _ := c.ListChainsOfTableFamily(table.Family)
		for _, ch := range chains {
			rules, _ := c.GetRules(table, ch)
			out = append(out, fmt.Sprintf("chain %s/%s %d", table.Name, ch.Name, len(rules)))
		}
	}
	slices.Sort(out)
	return out
}

func sameSnapshot(want, have []string) error {
	if slices.Equal(want, have) {
		return nil
	}
	var missing, more []string
	for _, w := range want {
		if !slices.Contains(have, w) {
			missing = append(missing, w)
		}
	}
	for _, h := range have {
		if !slices.Contains(want, h) {
			more = append(more, h)
		}
	}
	return fmt.Errorf("missing: %s; too much: %s", strings.Join(missing, ", "), strings.Join(more, ", "))
}

func TestWhatIsDeletedByHandComesBack(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0].pod(), l.nodes[1].pod()
	echoTCP(t, b.ns, b.uid, 80)
	l.expose("web", "10.43.0.20", 30080, b)
	reach := func() error {
		for _, to := range []string{at(b.addr, 80), "10.43.0.20:80"} {
			if server, _, err := askTCP(a.ns, to); err != nil || server != b.uid {
				return fmt.Errorf("%s: %q, %w", to, server, err)
			}
		}
		return nil
	}
	eventually(t, "the pod and the Service are reached", reach)
	node := l.nodes[0]
	whole := snapshot(t, node)
	h := handle(t, node.ns)
	link := func(name string) netlink.Link {
		t.Helper()
		got, err := h.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	faults := map[string]func() error{
		"the bridge":              func() error { return h.LinkDel(link(datapath.BridgeName)) },
		"the tunnel":              func() error { return h.LinkDel(link(datapath.TunnelName)) },
		"the pod's link":          func() error { return h.LinkDel(link(datapath.PortName(a.uid))) },
		"the pod's link's master": func() error { return h.LinkSetNoMaster(link(datapath.PortName(a.uid))) },
		"the state of the bridge": func() error { return h.LinkSetDown(link(datapath.BridgeName)) },
		"the bridge's addresses": func() error {
			addrs, err := dump.All(func() ([]netlink.Addr, error) { return h.AddrList(link(datapath.BridgeName), netlink.FAMILY_V4) })
			for _, addr := range addrs {
				err = errors.Join(err, h.AddrDel(link(datapath.BridgeName), &addr))
			}
			return err
		},
		"all routes": func() error {
			routes, err := dump.All(func() ([]netlink.Route, error) {
				return h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: datapath.RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
			})
			for _, r := range routes {
				err = errors.Join(err, h.RouteDel(&r))
			}
			return err
		},
		"all neighbours": func() error {
			var err error
			for _, family := range []int{netlink.FAMILY_V4, unix.AF_BRIDGE} {
				list, lerr := dump.All(func() ([]netlink.Neigh, error) { return h.NeighList(link(datapath.TunnelName).Attrs().Index, family) })
				err = errors.Join(err, lerr)
				for _, e := range list {
					if e.State != unix.NUD_PERMANENT {
						continue
					}
					if family == unix.AF_BRIDGE {
						e.Family, e.Flags = unix.AF_BRIDGE, unix.NTF_SELF
					}
					err = errors.Join(err, h.NeighDel(&e))
				}
			}
			return err
		},
		"the nftables table": func() error {
			return rules(node, func(c *nftables.Conn, tb *nftables.Table) error { c.DelTable(tb); return nil })
		},
		"a rule": func() error {
			return rules(node, func(c *nftables.Conn, tb *nftables.Table) error {
				c.FlushChain(&nftables.Chain{Table: tb, Name: "services"})
				return nil
			})
		},
		"a Service": func() error {
			return rules(node, func(c *nftables.Conn, tb *nftables.Table) error {
				set, err := c.GetSetByName(tb, "endpoints")
				if err == nil {
					c.FlushSet(set)
				}
				return err
			})
		},
	}
	for what, fault := range faults {
		if err := fault(); err != nil {
			t.Fatalf("removing %s: %v", what, err)
		}
		eventually(t, "everything is back after losing "+what, func() error { return sameSnapshot(whole, snapshot(t, node)) })
		eventually(t, "the pod and the Service are reached after losing "+what, reach)
	}
}

func rules(n *labNode, change func(*nftables.Conn, *nftables.Table) error) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(n.ns)))
	if err != nil {
		return err
	}
	if err := change(c, &nftables.Table{Name: nft.TableName, Family: nftables.TableFamilyIPv4}); err != nil {
		return err
	}
	return c.Flush()
}

// TestReportTellsWhatDiffered is what kontiki net status shows.
func TestReportTellsWhatDiffered(t *testing.T) {
	l := newLab(t, 2)
	node := l.nodes[0]
	node.stop()
	network, err := New(node.config(slog.New(slog.DiscardHandler))) // does not run: nobody else repairs
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	if diff := network.Report().Differences; len(diff) > 0 {
		t.Errorf("nothing was changed, and these are said to differ: %q", diff)
	}
	h := handle(t, node.ns)
	link, err := h.LinkByName(datapath.TunnelName)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	diff := strings.Join(network.Report().Differences, "\n")
	for _, want := range []string{"put right: make tunnel kontiki.1", "put right: route 10.42.2.0/24"} {
		if !strings.Contains(diff, want) {
			t.Errorf("the report does not say %q, but:\n%s", want, diff)
		}
	}
	if diff := network.Report().Differences; len(diff) > 0 {
		t.Errorf("after the repair: %q", diff)
	}
}

func TestTeardownLeavesNothing(t *testing.T) {
	l := newLab(t, 2)
	node := l.nodes[0]
	// Somebody else's things stay.
	h := handle(t, node.ns)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "ktkfoo"
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	c, err := nftables.New(nftables.WithNetNSFd(int(node.ns)))
	if err != nil {
		t.Fatal(err)
	}
	c.AddTable(&nftables.Table{Name: "others", Family: nftables.TableFamilyIPv4})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	p := node.pod(HostPort{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"})
	l.expose("web", "10.43.0.20", 30080, p)
	node.stop()
	again := func() error { return Teardown(node.dir+"/overlay", node.ns, slog.New(slog.DiscardHandler)) }
	if err := again(); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, line := range snapshot(t, node) {
		if !strings.Contains(line, "lo ") && !strings.Contains(line, "eth0") && !strings.Contains(line, "192.168.77.0/24") {
			left = append(left, line)
		}
	}
	if want := []string{"link ktkfoo bridge 1500"}; !slices.Equal(left, want) {
		t.Errorf("left: %q, want %q", left, want)
	}
	tables, err := c.ListTables()
	if err != nil || len(tables) != 1 || tables[0].Name != "others" {
		t.Errorf("tables left: %v, %v", tables, err)
	}
	if _, err := os.Stat(filepath.Join(node.dir, "overlay")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder: %v", err)
	}
	if err := again(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestRestartWithoutAnyoneKeepsWorking(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0].pod(), l.nodes[1].pod()
	echoTCP(t, b.ns, b.uid, 80)
	l.expose("web", "10.43.0.20", 0, b)
	reach := func() error {
		for _, to := range []string{at(b.addr, 80), "10.43.0.20:80"} {
			if server, _, err := askTCP(a.ns, to); err != nil || server != b.uid {
				return fmt.Errorf("%s: %q, %w", to, server, err)
			}
		}
		return nil
	}
	eventually(t, "the pod and the Service are reached", reach)
	node := l.nodes[0]
	node.stop()
	if err := reach(); err != nil {
		t.Errorf("while the node is down: %v", err)
	}
	// The new process finds no API, but what is on disk, in the kernel and in the ring.
	l.client = unreachable()
	node.start()
	eventually(t, "the node compared once", func() error {
		node.net.mu.Lock()
		defer node.net.mu.Unlock()
		if !node.net.compared {
			return errors.New("not yet")
		}
		return nil
	})
	if err := reach(); err != nil {
		t.Errorf("after a restart without the API: %v", err)
	}
	same, err := node.net.Attach(t.Context(), PodAttachment{UID: a.uid, Namespace: "default", Name: a.uid, NetNS: path(a.ns)})
	if err != nil || same[0] != a.addr {
		t.Errorf("attaching again gave %v, %v instead of %s", same, err, a.addr)
	}
	c := node.pod()
	if c.addr == a.addr || c.addr == b.addr {
		t.Errorf("%s was given out twice", c.addr)
	}
	if server, _, err := askTCP(c.ns, at(b.addr, 80)); err != nil || server != b.uid {
		t.Errorf("a pod attached without the API: %q, %v", server, err)
	}
	if err := node.net.Retain(t.Context(), []string{c.uid}); err != nil {
		t.Fatal(err)
	}
	if recs := node.net.book.Records(); len(recs) != 1 || recs[0].UID != c.uid {
		t.Errorf("after Retain: %v", recs)
	}
}

func TestNodeChangesItsAddress(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0].pod(), l.nodes[1].pod()
	echoTCP(t, b.ns, b.uid, 80)
	reach := func() error {
		server, _, err := askTCP(a.ns, at(b.addr, 80))
		if err == nil && server != b.uid {
			err = fmt.Errorf("%s answered", server)
		}
		return err
	}
	eventually(t, "the pod is reached", reach)
	l.nodes[1].readdress(t, "192.168.77.77")
	eventually(t, "the pod is reached again", reach)
}

// TestWaysAreLookedAt is what kontiki status shows of a node's way to the others' pods: it
// sees what is missing, and puts nothing right.
func TestWaysAreLookedAt(t *testing.T) {
	l := newLab(t, 2)
	node, other := l.nodes[0], l.nodes[1]
	node.stop()
	network, err := New(node.config(slog.New(slog.DiscardHandler))) // does not run: nobody repairs
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	h := handle(t, node.ns)
	tunnel, err := h.LinkByName(datapath.TunnelName)
	if err != nil {
		t.Fatal(err)
	}
	used := func() map[string]string {
		ways, err := network.Ways()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, w := range ways {
			out[w.NodeID] = w.Used
		}
		return out
	}
	if got := used(); got["id-of-"+node.name] != "own" || got["id-of-"+other.name] != "yes" {
		t.Fatalf("nothing was changed: %v", got)
	}
	neighbours := func(family int) {
		entries, err := dump.All(func() ([]netlink.Neigh, error) { return h.NeighList(tunnel.Attrs().Index, family) })
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.State&unix.NUD_PERMANENT == 0 {
				continue
			}
			if family == unix.AF_BRIDGE {
				e.Family, e.Flags = unix.AF_BRIDGE, unix.NTF_SELF
			}
			if err := h.NeighDel(&e); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, fault := range []struct {
		want string
		make func()
	}{
		{"no: its forwarding entry is missing", func() { neighbours(unix.AF_BRIDGE) }},
		{"no: its neighbour entry is missing", func() { neighbours(netlink.FAMILY_V4) }},
		{"no: its route is missing", func() {
			routes, err := dump.All(func() ([]netlink.Route, error) {
				return h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: tunnel.Attrs().Index}, netlink.RT_FILTER_OIF)
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range routes {
				if r.Protocol == datapath.RouteProtocol {
					if err := h.RouteDel(&r); err != nil {
						t.Fatal(err)
					}
				}
			}
		}},
		{"no: device kontiki.1 is missing", func() {
			if err := h.LinkDel(tunnel); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		fault.make()
		for range 2 { // the first look has changed nothing
			if got := used(); got["id-of-"+node.name] != "own" || got["id-of-"+other.name] != fault.want {
				t.Errorf("%v, want %q", got, fault.want)
			}
		}
	}
	if err := network.Reconcile(); err != nil {
		t.Fatal(err)
	}
	if got := used(); got["id-of-"+other.name] != "yes" {
		t.Errorf("after the repair: %v", got)
	}
}
