package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"kontiki/internal/dump"
	"kontiki/overlay/datapath"
	"kontiki/overlay/ipam"
)

// crashes is what the process that is killed again and again must know.
type crashes struct {
	dir     string
	node    netns.NsHandle
	address netip.Addr
	pods    []string // paths of network namespaces
}

func (c crashes) network() (*Network, error) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", ResourceVersion: "7"}}
	node.Spec.PodCIDRs = []string{"10.42.1.0/28"} // small: addresses come back soon
	return New(Config{
		NodeName: "node-1", NodeID: "one", Client: fake.NewClientset(node), Leases: &ring{leases: map[string]Lease{}},
		Underlay:     func() netip.Addr { return c.address },
		ClusterCIDRs: []netip.Prefix{labCluster}, ServiceCIDRs: []netip.Prefix{labServices},
		Upstreams: []netip.AddrPort{}, DataDir: c.dir, NetNS: &c.node, Logger: slog.New(slog.DiscardHandler),
	})
}

// TestCrashesLeakNothing kills a process before each change in turn that it makes while
// it attaches a pod and detaches it. What it leaves is known to the
// book, and what comes after it finds each pod with one address of its own; once the pods
// are gone there is nothing of them: no record, no link, no address.
func TestCrashesLeakNothing(t *testing.T) {
	const inside = "KONTIKI_OVERLAY_TEST_CRASHES"
	if given := os.Getenv(inside); given != "" {
		attachUntilKilled(t, strings.Split(given, " "))
		return
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l := &lab{t: t}
	l.makeUnderlay()
	c := crashes{dir: t.TempDir() + "/overlay"}
	c.node, c.address = l.host(1)
	for range 4 {
		c.pods = append(c.pods, path(newNS(t)))
	}
	kills, finished := 0, false
	for n := 1; !finished; n++ {
		pod := n % len(c.pods)
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrashesLeakNothing$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), inside+"="+strings.Join([]string{strconv.Itoa(n), c.dir, path(c.node), c.address.String(), strconv.Itoa(pod), c.pods[pod]}, " "))
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		var ended *exec.ExitError
		switch {
		case err == nil:
			finished = true
		case errors.As(err, &ended) && ended.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
			kills++
		default:
			t.Fatalf("killed before change %d, the process ended by itself: %v\n%s", n, err, out)
		}
		c.linksAreRecorded(t, n)
	}
	if kills < 10 {
		t.Errorf("attaching and detaching took %d changes: they are not counted", kills)
	}
	t.Logf("killed before each of %d changes", kills)
	network, err := c.network()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- network.Run(ctx) }()
	defer func() { cancel(); <-ended; network.Close() }()
	eventually(t, "the node has its subnet", network.Ready)
	held := map[netip.Addr]string{}
	for _, rec := range network.book.Records() {
		addrs, err := network.Attach(ctx, PodAttachment{UID: rec.UID, NetNS: rec.NetNS})
		if err != nil || addrs[0] != rec.Addrs[0] {
			t.Errorf("%s had %s and has %v, %v", rec.UID, rec.Addrs[0], addrs, err)
		}
		if other, taken := held[rec.Addrs[0]]; taken {
			t.Errorf("%s has the address of %s", rec.UID, other)
		}
		held[rec.Addrs[0]] = rec.UID
		// A link that was made half is made whole.
		pod, err := netns.GetFromPath(rec.NetNS)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := askTCP(pod, at(netip.MustParseAddr("10.42.1.1"), 9)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s does not reach its gateway: %v", rec.UID, err)
		}
		pod.Close()
	}
	if err := network.Retain(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if recs := network.book.Records(); len(recs) > 0 {
		t.Errorf("records are left: %v", recs)
	}
	eventually(t, "no pod's link is left", func() error {
		if names := podLinks(t, c.node); len(names) > 0 {
			return fmt.Errorf("%v", names)
		}
		return nil
	})
}

func podLinks(t *testing.T, ns netns.NsHandle) (names []string) {
	t.Helper()
	links, err := dump.All(handle(t, ns).LinkList)
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, "ktk") {
			names = append(names, link.Attrs().Name)
		}
	}
	return names
}

// linksAreRecorded checks that every pod's link is in the book: what is not is known to
// nobody, should the next process never compare.
func (c crashes) linksAreRecorded(t *testing.T, n int) {
	t.Helper()
	book, err := ipam.Open(filepath.Join(c.dir, "addresses.json"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[string]bool{}
	for _, rec := range book.Records() {
		recorded[datapath.PortName(rec.UID)] = true
	}
	for _, name := range podLinks(t, c.node) {
		if !recorded[name] {
			t.Errorf("killed before change %d, a process left the link %s without a record", n, name)
		}
	}
}

// attachUntilKilled is the process that is killed.
func attachUntilKilled(t *testing.T, given []string) {
	n, err := strconv.Atoi(given[0])
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.GetFromPath(given[2])
	if err != nil {
		t.Fatal(err)
	}
	c := crashes{dir: given[1], node: ns, address: netip.MustParseAddr(given[3])}
	network, err := c.network()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- network.Run(ctx) }()
	defer func() { cancel(); <-ended; network.Close() }()
	eventually(t, "the node has its subnet", network.Ready)
	uid := "pod-" + given[4]
	if err := network.Detach(ctx, uid); err != nil { // what the one before left
		t.Fatal(err)
	}
	if err := killBefore(n); err != nil {
		t.Fatal(err)
	}
	if _, err := network.Attach(ctx, PodAttachment{UID: uid, NetNS: given[5], HostPorts: []HostPort{{HostPort: 8000, ContainerPort: 80, Protocol: "TCP"}}}); err != nil {
		t.Fatal(err)
	}
	if err := network.Detach(ctx, uid); err != nil {
		t.Fatal(err)
	}
}
