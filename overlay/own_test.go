package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"kontiki/internal/dump"
)

// TestInTheProcessesOwnNamespace is how a node runs: no handle of a namespace,
// but a process that is in one.
func TestInTheProcessesOwnNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	const inside = "KONTIKI_OVERLAY_TEST_INSIDE"
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestInTheProcessesOwnNamespace$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	self := netip.MustParseAddr("192.0.2.1")
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	under := &netlink.Bridge{LinkAttrs: attrs}
	err = errors.Join(
		netlink.LinkSetUp(lo), netlink.LinkAdd(under), netlink.LinkSetUp(under),
		netlink.AddrAdd(under, &netlink.Addr{IPNet: &net.IPNet{IP: self.AsSlice(), Mask: net.CIDRMask(24, 32)}}),
	)
	if err != nil {
		t.Fatal(err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", ResourceVersion: "7"}}
	node.Spec.PodCIDRs = []string{"10.42.1.0/24"}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	svc.Spec.ClusterIP = "10.43.0.20"
	dir := t.TempDir() + "/overlay"
	network, err := New(Config{
		NodeName: "node-1", NodeID: "one", Client: fake.NewClientset(node, svc), Leases: &ring{leases: map[string]Lease{}},
		Underlay: func() netip.Addr { return self }, ClusterCIDRs: []netip.Prefix{labCluster}, ServiceCIDRs: []netip.Prefix{labServices},
		ClusterDNS: labDNS, DataDir: dir, CheckEvery: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- network.Run(ctx) }()
	pod := newNS(t)
	var addr netip.Addr
	eventually(t, "the pod is attached", func() error {
		addrs, err := network.Attach(ctx, PodAttachment{UID: "a", NetNS: path(pod)})
		if err == nil {
			addr = addrs[0]
		}
		return err
	})
	echoTCP(t, pod, "a", 80)
	if server, _, err := askTCP(netns.None(), at(addr, 80)); err != nil || server != "a" {
		t.Errorf("%q answered, %v", server, err)
	}
	eventually(t, "DNS answers", func() error {
		r, _, err := (&dns.Client{Timeout: time.Second}).Exchange(new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA), at(labDNS, 53))
		if err == nil && len(r.Answer) != 1 {
			err = fmt.Errorf("the answer is %v", r)
		}
		return err
	})
	eventually(t, "connections to a Service without endpoints are refused", refused(func() (string, error) {
		s, _, err := askTCP(pod, "10.43.0.20:80")
		return s, err
	}))
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	network.Close()
	if err := Teardown(dir, netns.None(), slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	links, err := dump.All(netlink.LinkList)
	if err != nil || len(links) != 2 {
		t.Errorf("left: %v, %v", links, err)
	}
}
