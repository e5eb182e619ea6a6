package overlay

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kontiki/overlay/datapath"
	"kontiki/overlay/dns"
)

// upstreamsFrom returns who says what the name servers of others are now.
func (n *Network) upstreamsFrom(conf *dns.ResolvConf) func() []netip.AddrPort {
	own := conf.Servers
	if n.cfg.Upstreams != nil {
		own = func() []netip.AddrPort { return n.cfg.Upstreams }
	}
	return func() []netip.AddrPort {
		if told := n.dnsConfig.Load().upstreams; told != nil {
			return told
		}
		return own()
	}
}

// newDNS returns the server for the cluster's DNS address on this node.
func (n *Network) newDNS(conf *dns.ResolvConf) *dns.Server {
	return dns.New(dns.Config{
		Domain: n.cfg.ClusterDomain, Pods: n.cfg.ClusterCIDRs,
		Ranges:    slices.Concat(n.cfg.ClusterCIDRs, n.cfg.ServiceCIDRs),
		Source:    dns.Informers{ServiceInformer: n.objects.services, SliceInformer: n.objects.slices},
		Upstreams: n.upstreams, Stubs: func() []dns.Stub { return n.dnsConfig.Load().stubs },
		NamespaceOf: n.book.NamespaceOf, Searches: conf.Searches,
		Listen: n.listenDNS,
		Took:   func(d time.Duration) { n.figures.dns.Observe(d.Seconds()) },
		Dial: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = datapath.Within(*n.cfg.NetNS, func() error {
				conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
				return err
			})
			return conn, err
		},
		Logger: n.log,
	})
}

// listenDNS opens both sockets at the cluster's DNS address, which need not be on
// a device yet.
func (n *Network) listenDNS() (packets net.PacketConn, listener net.Listener, err error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var serr error
		err := raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) })
		if err != nil {
			return err
		}
		return serr
	}}
	at := netip.AddrPortFrom(n.cfg.ClusterDNS, 53).String()
	err = datapath.Within(*n.cfg.NetNS, func() error {
		if packets, err = lc.ListenPacket(context.Background(), "udp4", at); err != nil {
			return err
		}
		if listener, err = lc.Listen(context.Background(), "tcp4", at); err != nil {
			packets.Close()
		}
		return err
	})
	return packets, listener, err
}

// listenTCP opens a TCP port on all addresses of the node.
func (n *Network) listenTCP(port uint16) (l net.Listener, err error) {
	err = datapath.Within(*n.cfg.NetNS, func() error {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(netip.IPv4Unspecified(), port).String())
		return err
	})
	return l, err
}
