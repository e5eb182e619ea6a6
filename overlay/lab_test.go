package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"kontiki/gossip"
	"kontiki/internal/dump"
	"kontiki/overlay/datapath"
)

// The lab: nodes are network namespaces on one bridge, which is in a namespace of
// its own; pods are namespaces, too. None has a name, so nothing is left behind,
// however a test ends.

const patience = 20 * time.Second

// eventually waits until check returns nil.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s until %s: %v", patience, what, err)
		}
		<-tick.C
	}
}

// newNS makes a network namespace with lo up.
func newNS(t testing.TB) netns.NsHandle {
	t.Helper()
	type result struct {
		ns  netns.NsHandle
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in the namespace
		ns, err := netns.New()
		made <- result{ns, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatalf("making a network namespace: %v", r.err)
	}
	t.Cleanup(func() { r.ns.Close() })
	h := handle(t, r.ns)
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r.ns
}

func handle(t testing.TB, ns netns.NsHandle) *netlink.Handle {
	t.Helper()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// path names a namespace so that anyone in this process can open it.
func path(ns netns.NsHandle) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(ns)) }

// ring is the leases of all nodes of a lab, spread at once.
type ring struct {
	mu      sync.Mutex
	leases  map[string]Lease
	dead    map[string]bool
	watches []chan struct{}
}

func (r *ring) Leases() []Lease {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Lease
	for _, l := range r.leases {
		out = append(out, l)
	}
	return out
}

func (r *ring) SetLease(l Lease) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leases[l.NodeID] = l
	r.tellLocked()
	return nil
}

func (r *ring) tellLocked() {
	for _, w := range r.watches {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

func (r *ring) WatchLeases() (<-chan struct{}, func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := make(chan struct{}, 1)
	r.watches = append(r.watches, w)
	return w, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.watches = slices.DeleteFunc(r.watches, func(c chan struct{}) bool { return c == w })
	}
}

func (r *ring) Dead() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]bool{}
	for n := range r.dead {
		out[n] = true
	}
	return out
}

func (r *ring) WatchDead() (<-chan struct{}, func()) { return r.WatchLeases() }

func (r *ring) setDead(names ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dead = map[string]bool{}
	for _, n := range names {
		r.dead[n] = true
	}
	r.tellLocked()
}

type lab struct {
	t       testing.TB
	backend datapath.Backend
	ring    *ring
	client  kubernetes.Interface
	under   netns.NsHandle
	nodes   []*labNode
	pods    int
}

type labNode struct {
	lab  *lab
	name string
	ns   netns.NsHandle
	dir  string
	net  *Network
	stop func()

	mu   sync.Mutex // protects addr
	addr netip.Addr
}

func (n *labNode) address() netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addr
}

func (n *labNode) setAddr(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addr = netip.MustParseAddr(addr)
}

// readdress gives the node another address in place of the one it has.
func (n *labNode) readdress(t testing.TB, addr string) {
	t.Helper()
	h := handle(t, n.ns)
	eth, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := dump.All(func() ([]netlink.Addr, error) { return h.AddrList(eth, netlink.FAMILY_V4) })
	if err != nil {
		t.Fatal(err)
	}
	n.setAddr(addr)
	fresh := *addrs[0].IPNet
	fresh.IP = n.address().AsSlice()
	if err := errors.Join(h.AddrDel(eth, &addrs[0]), h.AddrAdd(eth, &netlink.Addr{IPNet: &fresh})); err != nil {
		t.Fatal(err)
	}
}

// unreachable is a client whose API server is not there.
func unreachable() kubernetes.Interface {
	return kubernetes.NewForConfigOrDie(&rest.Config{Host: "https://127.0.0.1:1"})
}

type labPod struct {
	uid  string
	ns   netns.NsHandle
	addr netip.Addr
	node *labNode
}

var (
	labCluster  = netip.MustParsePrefix("10.42.0.0/16")
	labServices = netip.MustParsePrefix("10.43.0.0/16")
	labDNS      = netip.MustParseAddr("10.43.0.10")
)

// newLab makes n nodes and starts their networks.
func newLab(t testing.TB, n int) *lab {
	t.Helper()
	return newLabWith(t, n, datapath.VXLAN)
}

func newLabWith(t testing.TB, n int, backend datapath.Backend) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l := &lab{t: t, backend: backend, ring: &ring{leases: map[string]Lease{}}, client: fake.NewClientset()}
	l.makeUnderlay()
	for i := range n {
		name := fmt.Sprintf("node-%d", i+1)
		ns, addr := l.host(i + 1)
		node := &labNode{lab: l, name: name, ns: ns, addr: addr, dir: t.TempDir()}
		l.nodes = append(l.nodes, node)
		l.register(node, i+1)
		node.start()
	}
	for _, node := range l.nodes {
		eventually(t, node.name+" has routes to all others", func() error { return node.hasRoutes(n - 1) })
	}
	return l
}

// register makes the Node object with the subnet of that number.
func (l *lab) register(node *labNode, number int) {
	l.t.Helper()
	obj := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.name, ResourceVersion: fmt.Sprint(99 + number)}}
	obj.Spec.PodCIDR = fmt.Sprintf("10.42.%d.0/24", number)
	obj.Spec.PodCIDRs = []string{obj.Spec.PodCIDR}
	if _, err := l.client.CoreV1().Nodes().Create(l.t.Context(), obj, metav1.CreateOptions{}); err != nil {
		l.t.Fatal(err)
	}
}

// makeUnderlay makes the bridge that nodes and other hosts are on.
func (l *lab) makeUnderlay() {
	l.t.Helper()
	l.under = newNS(l.t)
	h := handle(l.t, l.under)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "under0"
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		l.t.Fatal(err)
	}
	br, err := h.LinkByName("under0")
	if err == nil {
		err = h.LinkSetUp(br)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// host makes a namespace on the underlay with address 192.168.77.i.
func (l *lab) host(i int) (netns.NsHandle, netip.Addr) {
	l.t.Helper()
	ns := newNS(l.t)
	h := handle(l.t, l.under)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("port%d", i)
	br, err := h.LinkByName("under0")
	if err != nil {
		l.t.Fatal(err)
	}
	attrs.MasterIndex = br.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}
	if err := h.LinkAdd(veth); err != nil {
		l.t.Fatal(err)
	}
	port, err := h.LinkByName(attrs.Name)
	if err == nil {
		err = h.LinkSetUp(port)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	inside := handle(l.t, ns)
	eth, err := inside.LinkByName("eth0")
	if err != nil {
		l.t.Fatal(err)
	}
	addr := netip.AddrFrom4([4]byte{192, 168, 77, byte(i)})
	err = errors.Join(
		inside.AddrAdd(eth, &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(24, 32)}}),
		inside.LinkSetUp(eth),
	)
	if err != nil {
		l.t.Fatal(err)
	}
	return ns, addr
}

func (n *labNode) config(logger *slog.Logger) Config {
	return Config{
		NodeName: n.name, NodeID: "id-of-" + n.name, Client: n.lab.client, Leases: n.lab.ring, Dead: n.lab.ring,
		Underlay:     n.address,
		ClusterCIDRs: []netip.Prefix{labCluster}, ServiceCIDRs: []netip.Prefix{labServices}, ClusterDNS: labDNS,
		Upstreams: []netip.AddrPort{}, DataDir: n.dir + "/overlay", NetNS: &n.ns, Backend: n.lab.backend, Logger: logger, CheckEvery: 500 * time.Millisecond,
	}
}

func (n *labNode) start() {
	t := n.lab.t
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})).With("node", n.name)
	network, err := New(n.config(logger))
	if err != nil {
		t.Fatal(err)
	}
	n.net = network
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- network.Run(ctx) }()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("%s ended with %v", n.name, err)
				}
			case <-time.After(patience):
				stacks := make([]byte, 1<<20)
				t.Errorf("%s did not end within %s of being told to:\n%s", n.name, patience, stacks[:runtime.Stack(stacks, true)])
			}
			network.Close()
		})
	}
	t.Cleanup(n.stop)
}

func (n *labNode) hasRoutes(want int) error {
	h, err := netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	device := datapath.TunnelName
	if n.lab.backend == datapath.HostGateway {
		device = "eth0"
	}
	link, err := h.LinkByName(device)
	if err != nil {
		return err
	}
	routes, err := dump.All(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: link.Attrs().Index, Protocol: datapath.RouteProtocol}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return err
	}
	if len(routes) != want {
		return fmt.Errorf("%d routes to other nodes instead of %d", len(routes), want)
	}
	return nil
}

// pod makes a namespace and attaches it.
func (n *labNode) pod(hostPorts ...HostPort) *labPod {
	t := n.lab.t
	t.Helper()
	n.lab.pods++
	p := &labPod{uid: fmt.Sprintf("uid-%d", n.lab.pods), ns: newNS(t), node: n}
	addrs, err := n.net.Attach(t.Context(), PodAttachment{UID: p.uid, Namespace: "default", Name: p.uid, NetNS: path(p.ns), HostPorts: hostPorts})
	if err != nil {
		t.Fatal(err)
	}
	p.addr = addrs[0]
	return p
}

// echoTCP serves name on a port in a namespace: first a line with its name and
// the client's address, then whatever it gets.
func echoTCP(t testing.TB, ns netns.NsHandle, name string, port uint16) {
	t.Helper()
	serveTCP(t, ns, port, func(c net.Conn) {
		c.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(c, "%s %s\n", name, c.RemoteAddr().(*net.TCPAddr).IP)
		io.Copy(c, c)
	})
}

// serveTCP hands each connection to a port in a namespace to serve, and closes it then.
func serveTCP(t testing.TB, ns netns.NsHandle, port uint16, serve func(net.Conn)) {
	t.Helper()
	var l net.Listener
	err := datapath.Within(ns, func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
}

// echoUDP answers every datagram with "name client-address length".
func echoUDP(t testing.TB, ns netns.NsHandle, name string, port uint16) {
	t.Helper()
	var c net.PacketConn
	err := datapath.Within(ns, func() (err error) {
		c, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(fmt.Appendf(nil, "%s %s %d", name, from.(*net.UDPAddr).IP, n), from)
		}
	})
	t.Cleanup(func() { c.Close(); wg.Wait() })
}

func dialIn(ns netns.NsHandle, network, to string, wait time.Duration) (c net.Conn, err error) {
	err = datapath.Within(ns, func() error {
		c, err = net.DialTimeout(network, to, wait)
		return err
	})
	return c, err
}

// askTCP connects from a namespace and returns who answered and whom it saw.
func askTCP(ns netns.NsHandle, to string) (server, client string, err error) {
	c, err := dialIn(ns, "tcp4", to, 5*time.Second)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err = fmt.Fscanf(c, "%s %s\n", &server, &client); err != nil {
		return "", "", fmt.Errorf("reading from %s: %w", to, err)
	}
	return server, client, nil
}

// askUDP sends a datagram of size bytes and returns who answered, whom it saw
// and how much it got. dontFragment forbids to cut it.
func askUDP(ns netns.NsHandle, to string, size int, dontFragment bool) (server, client string, got int, err error) {
	c, err := dialIn(ns, "udp4", to, time.Second)
	if err != nil {
		return "", "", 0, err
	}
	defer c.Close()
	if dontFragment {
		raw, err := c.(*net.UDPConn).SyscallConn()
		if err != nil {
			return "", "", 0, err
		}
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		})
	}
	// A first datagram may be lost while addresses are resolved.
	for range 5 {
		if _, err = c.Write(make([]byte, size)); err != nil {
			return "", "", 0, err
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 512)
		var n int
		if n, err = c.Read(buf); err == nil {
			_, err = fmt.Sscanf(string(buf[:n]), "%s %s %d", &server, &client, &got)
			return server, client, got, err
		}
	}
	return "", "", 0, err
}

func at(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

var _ LeaseRing = (*gossip.Ring)(nil)
