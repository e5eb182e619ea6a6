package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/internal/dump"
	"kontiki/jepsen/lab"
)

// stranger has programs of Debian's busybox look names up with their C library, and
// its own resolver, as it stands in resolv.conf.
func (n *network) stranger(t *testing.T) {
	n.busybox(t)
	client := n.client(t, n.Hosts()[0])
	grace := int64(1)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "stranger", Labels: map[string]string{"app": "stranger"}}}
	pod.Spec.TerminationGracePeriodSeconds = &grace
	pod.Spec.Containers = []corev1.Container{{Name: "shell", Image: busyboxImage, Command: []string{"/bin/sh", "-c", "sleep 3600"}}}
	if _, err := client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.eventually(t, "the stranger", func(ctx context.Context) error {
		pods, err := readyPods(ctx, client, "app=stranger")
		if err == nil && len(pods) != 1 {
			err = errors.New("it is not ready")
		}
		return err
	})
	for _, name := range []string{"headless", "headless.default", "headless.default.svc", "headless.default.svc.cluster.local"} {
		got := strings.TrimSpace(n.kubectl(t, n.Hosts()[0], "exec", "stranger", "--", "wget", "-qO-", "http://"+name+":8080/"))
		if !slices.Contains(n.names, got) {
			t.Errorf("%s answered at %s", got, name)
		}
	}
	out, err := n.tryKubectl(t.Context(), n.Hosts()[0], "exec", "stranger", "--", "wget", "-qO-", "http://nothing.default.svc.cluster.local:8080/")
	if err == nil || !strings.Contains(err.Error(), "bad address") {
		t.Errorf("a name that does not exist: %q, %v", out, err)
	}
}

// stubDomain leads a domain to a server on the machine outside.
func (n *network) stubDomain(t *testing.T) {
	packets, err := net.ListenPacket("udp4", net.JoinHostPort(n.gateway(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		resp := new(dns.Msg).SetReply(req)
		if q := req.Question[0]; q.Qtype == dns.TypeA && q.Name == "shop.corp.example." {
			resp.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}, A: net.IPv4(192, 0, 2, 80)}}
		}
		_ = w.WriteMsg(resp) // who asked is gone, or asks again
	})}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.ActivateAndServe() }()
	t.Cleanup(func() { packets.Close(); <-ended })
	client := n.client(t, n.Hosts()[0])
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kontiki-dns"}, Data: map[string]string{"stubDomains": fmt.Sprintf(`{"corp.example": [%q]}`, packets.LocalAddr())}}
	if _, err := client.CoreV1().ConfigMaps("kube-system").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, libc := range []bool{false, true} {
		ask := []expectation{{question: question{Kind: "lookup", To: "shop.corp.example", Libc: libc}, addrs: []string{"192.0.2.80"}}}
		n.eventually(t, fmt.Sprintf("pods to find a name of the stub domain, libc %v", libc), func(ctx context.Context) error {
			for _, pod := range n.pods[:3] {
				if err := n.prober(pod).expect(ctx, ask); err != nil {
					return err
				}
			}
			return nil
		})
		n.foundAtOnce(t, libc, ask)
	}
}

// foundAtOnce asks for a name with fewer than five dots. A resolver looks for it in five
// domains before it takes it as it is; here the first question finds it, one for each kind of
// address.
func (n *network) foundAtOnce(t *testing.T, libc bool, ask []expectation) {
	t.Helper()
	h, err := n.Host(n.pods[0].Spec.NodeName)
	if err != nil {
		t.Fatal(err)
	}
	before, err := n.netReport(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	n.must(t, n.prober(n.pods[0]), ask)
	after, err := n.netReport(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	if asked := after.DNS.Questions - before.DNS.Questions; asked > 2 || after.DNS.Completed == before.DNS.Completed {
		t.Errorf("libc %v: a name outside took %d questions: %+v, then %+v", libc, asked, before.DNS, after.DNS)
	}
}

// sabotage removes on one host, one after the other, what its node has made in the
// kernel. All is back soon, and what is not the node's is as it was.
func (n *network) sabotage(t *testing.T) {
	victim := n.Hosts()[1]
	before := n.kernelOf(t, victim)
	for _, what := range sabotages() {
		var errs bytes.Buffer
		if err := victim.Exec(t.Context(), nil, nil, &errs, self(t), "sabotage", what); err != nil {
			t.Fatalf("removing %s: %v: %s", what, err, errs.String())
		}
		n.eventually(t, "all to be as it was before "+what+" was removed", func(ctx context.Context) error {
			now := n.kernelOf(t, victim)
			if !slices.Equal(now, before) {
				return fmt.Errorf("it is\n%s\nnot\n%s", strings.Join(now, "\n"), strings.Join(before, "\n"))
			}
			return nil
		})
		n.eventually(t, "every pod to be reached after "+what+" was removed", func(ctx context.Context) error {
			return errors.Join(n.reach(ctx, everywhere, everywhere), n.service(ctx, []string{victim.Name}, everywhere))
		})
	}
	r, err := n.netReport(t.Context(), victim)
	if err != nil || len(r.Differences) > 0 {
		t.Errorf("kontiki net status says that this is not as it should be: %q, %v", r.Differences, err)
	}
}

// tearDown stops a node for good: nothing of it is left in the machine's kernel.
func (n *network) tearDown(t *testing.T) {
	victim := n.Hosts()[2]
	if err := victim.Signal(t.Context(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it can be repeated
		var out bytes.Buffer
		if err := victim.Exec(t.Context(), nil, &out, &out, "kontiki", "node", "--teardown", "--name", victim.Name, "--data-dir", victim.DataDir(), "--cgroup-root", victim.CgroupRoot()); err != nil {
			t.Fatalf("kontiki node --teardown: %v\n%s", err, out.String())
		}
	}
	if left := n.kernelOf(t, victim); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// kernelOf lists what a host's kernel holds of a pod network.
func (n *network) kernelOf(t *testing.T, h *lab.Host) (lines []string) {
	t.Helper()
	var out, errs bytes.Buffer
	if err := h.Exec(t.Context(), nil, &out, &errs, self(t), "kernel"); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	if err := json.Unmarshal(out.Bytes(), &lines); err != nil {
		t.Fatal(err)
	}
	return lines
}

// Names of what a node makes; a user of the machine sees them, too.
const (
	bridgeName, tunnelName, linkPrefix = "kontiki0", "kontiki.1", "ktk"
	tableName                          = "kontiki"
	routeProtocol                      = 75
)

// kernelLines is kernelOf inside the host: devices with their addresses, routes,
// entries of the tunnel, chains and sets with what is in them.
func kernelLines() (lines []string, err error) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	links, err := dump.All(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		name := l.Attrs().Name
		if name != bridgeName && name != tunnelName && !strings.HasPrefix(name, linkPrefix) {
			continue
		}
		say("device %s, %s, MTU %d", name, l.Attrs().OperState, l.Attrs().MTU)
		addrs, err := dump.All(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			say("address %s of %s", a.IPNet, name)
		}
		for _, family := range []int{netlink.FAMILY_V4, unix.AF_BRIDGE} {
			entries, err := dump.All(func() ([]netlink.Neigh, error) { return netlink.NeighList(l.Attrs().Index, family) })
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				if name == tunnelName && e.State == unix.NUD_PERMANENT {
					say("entry of %s: %s at %s", name, e.HardwareAddr, e.IP)
				}
			}
		}
	}
	routes, err := dump.All(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		say("route %s via %s", r.Dst, r.Gw)
	}
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, err
	}
	for _, table := range tables {
		if table.Name != tableName {
			continue
		}
		chains, err := c.ListChainsOfTableFamily(table.Family)
		if err != nil {
			return nil, err
		}
		for _, ch := range chains {
			rules, err := c.GetRules(table, ch)
			if err != nil {
				return nil, err
			}
			// Chains of a number of endpoints that no Service has any more may be there.
			if !strings.HasPrefix(ch.Name, "lb-") && !strings.HasPrefix(ch.Name, "np-") {
				say("chain %s with %d rules", ch.Name, len(rules))
			}
		}
		for _, name := range []string{"services", "nodeports", "endpoints", "refused", "hairpin", "sticky"} {
			set, err := c.GetSetByName(table, name)
			if err != nil {
				return nil, err
			}
			elements, err := c.GetSetElements(set)
			if err != nil {
				return nil, err
			}
			say("set %s with %d elements", name, len(elements))
		}
	}
	slices.Sort(lines)
	return lines, nil
}

// sabotages are what sabotage can remove.
func sabotages() []string {
	return []string{"the bridge", "the tunnel", "a pod's link", "routes", "entries", "the table", "a chain's rules"}
}

// sabotage runs inside a host.
func sabotage(what string) error {
	link := func(name string) (netlink.Link, error) { return netlink.LinkByName(name) }
	remove := func(name string) error {
		l, err := link(name)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}
	switch what {
	case "the bridge":
		return remove(bridgeName)
	case "the tunnel":
		return remove(tunnelName)
	case "a pod's link":
		links, err := dump.All(netlink.LinkList)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(links, func(l netlink.Link) bool { return strings.HasPrefix(l.Attrs().Name, linkPrefix) })
		if i < 0 {
			return errors.New("no pod has a link")
		}
		return netlink.LinkDel(links[i])
	case "routes":
		routes, err := dump.All(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		})
		for _, r := range routes {
			err = errors.Join(err, netlink.RouteDel(&r))
		}
		return err
	case "entries":
		l, err := link(tunnelName)
		if err != nil {
			return err
		}
		entries, err := dump.All(func() ([]netlink.Neigh, error) { return netlink.NeighList(l.Attrs().Index, unix.AF_BRIDGE) })
		for _, e := range entries {
			e.Family, e.Flags = unix.AF_BRIDGE, unix.NTF_SELF
			err = errors.Join(err, netlink.NeighDel(&e))
		}
		return err
	case "the table", "a chain's rules":
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4}
		if what == "the table" {
			c.DelTable(table)
		} else {
			c.FlushChain(&nftables.Chain{Table: table, Name: "postrouting"})
		}
		return c.Flush()
	}
	return fmt.Errorf("nobody knows how to remove %q", what)
}
