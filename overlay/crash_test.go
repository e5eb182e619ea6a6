package overlay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
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

// TestCrashesLeakNothing kills a process at any moment of attaching and detaching
// pods. What comes after it finds each pod with one address of its own, and once
// the pods are gone nothing of them: no record, no link, no address.
func TestCrashesLeakNothing(t *testing.T) {
	const inside = "KONTIKI_OVERLAY_TEST_CRASHES"
	if given := os.Getenv(inside); given != "" {
		attachForEver(t, strings.Split(given, " "))
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
	for round := range 4 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrashesLeakNothing$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), inside+"="+strings.Join(append([]string{c.dir, path(c.node), c.address.String()}, c.pods...), " "))
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Killed after some steps, at a moment that nobody chose.
		lines := bufio.NewScanner(out)
		for steps := 0; steps < 5+7*round && lines.Scan(); steps++ {
			if word := lines.Text(); strings.HasPrefix(word, "failed") {
				t.Errorf("round %d: %s", round, word)
			}
		}
		cmd.Process.Kill()
		var killed *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &killed) || !killed.Sys().(syscall.WaitStatus).Signaled() {
			t.Fatalf("round %d: the process ended by itself: %v", round, err)
		}
	}
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
	links, err := handle(t, ns).LinkList()
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

// attachForEver is the process that is killed. It says each step that it has made.
func attachForEver(t *testing.T, given []string) {
	ns, err := netns.GetFromPath(given[1])
	if err != nil {
		t.Fatal(err)
	}
	c := crashes{dir: given[0], node: ns, address: netip.MustParseAddr(given[2]), pods: given[3:]}
	network, err := c.network()
	if err != nil {
		t.Fatal(err)
	}
	go network.Run(t.Context())
	said := func(what string, err error) {
		if err != nil {
			what = fmt.Sprintf("failed to %s: %v", what, err)
		}
		fmt.Println(what)
	}
	eventually(t, "the node has its subnet", network.Ready)
	for i := 0; t.Context().Err() == nil; i++ {
		uid := fmt.Sprint("pod-", i%len(c.pods))
		_, err := network.Attach(t.Context(), PodAttachment{UID: uid, NetNS: c.pods[i%len(c.pods)], HostPorts: []HostPort{{HostPort: uint16(8000 + i%len(c.pods)), ContainerPort: 80, Protocol: "TCP"}}})
		said("attach "+uid, err)
		if i%3 != 0 { // some stay
			said("detach "+uid, network.Detach(t.Context(), uid))
		}
	}
}
