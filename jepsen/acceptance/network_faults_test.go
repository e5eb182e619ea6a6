package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/jepsen/lab"
)

// netReport is what the test reads of kontiki net leases.
type netReport struct {
	NodeID      string
	Leases      []leaseReport
	Differences []string
	DNS         struct{ Questions, Completed uint64 }
}

type leaseReport struct {
	NodeID  string
	Subnets []netip.Prefix
	Used    string
}

func (c *cluster) netReport(ctx context.Context, h *lab.Host) (netReport, error) {
	var out, errs bytes.Buffer
	var r netReport
	if err := h.Exec(ctx, nil, &out, &errs, "kontiki", "net", "leases", "-o", "json"); err != nil {
		return r, fmt.Errorf("kontiki net leases on %s: %w: %s", h.Name, err, errs.String())
	}
	return r, json.Unmarshal(out.Bytes(), &r)
}

// ways checks that a node has one way to each of the others and that no two
// nodes' ways are to one subnet.
func (c *cluster) ways(ctx context.Context, h *lab.Host) error {
	r, err := c.netReport(ctx, h)
	if err != nil {
		return err
	}
	holder := map[netip.Prefix]string{}
	used := 0
	for _, l := range r.Leases {
		if l.Used != "yes" && l.Used != "own" {
			continue
		}
		used++
		for _, s := range l.Subnets {
			if other, taken := holder[s]; taken {
				return fmt.Errorf("on %s: %s leads to %s and to %s", h.Name, s, other, l.NodeID)
			}
			holder[s] = l.NodeID
		}
	}
	if used != len(c.Hosts()) {
		return fmt.Errorf("%s has ways to %d of %d nodes: %+v", h.Name, used, len(c.Hosts()), r.Leases)
	}
	return nil
}

// long tells whether proofs may take their time, as in make jepsen.
func long() bool { return os.Getenv("KONTIKI_LONG") != "" }

// TestNetworkFaults breaks the network between nodes and looks at what pods notice; in
// all ways if that may take long.
func TestNetworkFaults(t *testing.T) {
	c := newCluster(t, "netf", 3)
	n := network{cluster: c, program: c.probes(t)}
	n.outside = fromHere(n.program)
	n1 := c.Hosts()[0]
	c.kubectl(t, n1, "apply", "-f", filepath.Join("testdata", "network.yaml"))
	client := c.client(t, n1)
	c.eventually(t, "two ready pods on every node", func(ctx context.Context) (err error) {
		if n.pods, err = readyPods(ctx, client, "app=probe"); err == nil && len(n.pods) != 6 {
			err = fmt.Errorf("%d pods are ready", len(n.pods))
		}
		return err
	})
	for _, pod := range n.pods {
		n.names = append(n.names, pod.Name)
	}
	var err error
	if n.services, err = c.serviceAddresses(t.Context(), t); err != nil {
		t.Fatal(err)
	}
	c.eventually(t, "every pod to reach every pod and the Service", n.whole)
	t.Run("one node cut off", n.cutOff)
	t.Run("one machine rebooted, without a quorum", n.rebooted)
	if !long() {
		return
	}
	t.Run("without TCP between nodes", n.withoutTCP)
	t.Run("without UDP between nodes", n.withoutUDP)
	t.Run("a third of all packets lost", n.lossy)
	t.Run("a third of the ring's messages lost", n.ringLossy)
	t.Run("two of three nodes killed", n.killed)
	t.Run("all nodes readdressed", n.readdressed)
}

// on are the names of the pods on some hosts.
func (n *network) on(hosts ...string) (names []string) {
	for _, pod := range n.pods {
		if slices.Contains(hosts, pod.Spec.NodeName) {
			names = append(names, pod.Name)
		}
	}
	return names
}

// reach has pods on some hosts talk to pods on some hosts.
func (n *network) reach(ctx context.Context, from, to []string) error {
	var errs []error
	for _, a := range n.pods {
		if !slices.Contains(from, a.Spec.NodeName) {
			continue
		}
		var all []expectation
		for _, b := range n.pods {
			if slices.Contains(to, b.Spec.NodeName) {
				all = append(all,
					expectation{question: question{Kind: "tcp", To: b.Status.PodIP + ":7000", Size: 10_000}, server: []string{b.Name}},
					expectation{question: question{Kind: "udp", To: b.Status.PodIP + ":7000"}, server: []string{b.Name}})
			}
		}
		errs = append(errs, n.prober(a).expect(ctx, all))
	}
	return errors.Join(errs...)
}

// service has pods on some hosts ask the Service often; only pods on the hosts
// named may answer, and none may fail.
func (n *network) service(ctx context.Context, from, by []string) error {
	var errs []error
	for _, a := range n.pods {
		if slices.Contains(from, a.Spec.NodeName) {
			e := expectation{question: question{Kind: "tcp", To: n.services["probe"] + ":7000"}, server: n.on(by...)}
			name := expectation{question: question{Kind: "lookup", To: "probe"}, addrs: []string{n.services["probe"]}}
			errs = append(errs, n.prober(a).expect(ctx, append(slices.Repeat([]expectation{e}, 12), name)))
		}
	}
	return errors.Join(errs...)
}

var everywhere = []string{"n1", "n2", "n3"}

func (n *network) whole(ctx context.Context) error {
	if err := n.reach(ctx, everywhere, everywhere); err != nil {
		return err
	}
	if err := n.oneAddressEach(ctx); err != nil {
		return err
	}
	for _, h := range n.Hosts() {
		if err := n.ways(ctx, h); err != nil {
			return err
		}
	}
	return n.service(ctx, everywhere, everywhere)
}

// heal ends all faults and waits until all is well.
func (n *network) heal(t *testing.T) {
	t.Helper()
	if err := n.Heal(); err != nil {
		t.Fatal(err)
	}
	healed := time.Now()
	var asked time.Duration // when the questions began that were all answered: they take a while themselves
	var missed error
	n.eventually(t, "everything to be reached again", func(ctx context.Context) error {
		asked = time.Since(healed)
		err := n.whole(ctx)
		if err != nil {
			missed = err
		}
		return err
	})
	t.Logf("everything asked from %v after healing on was reached, the last %v after it; before: %v",
		asked.Round(10*time.Millisecond), time.Since(healed).Round(10*time.Millisecond), missed)
}

// withoutQuorum waits until the host's node knows no leader.
func (n *network) withoutQuorum(t *testing.T, host string) {
	t.Helper()
	n.eventually(t, host+" to know no leader", func(ctx context.Context) error {
		for _, s := range n.Status(ctx) {
			if s.Host == host && s.Leader != "" {
				return errors.New("it is led by " + s.Leader)
			}
		}
		return nil
	})
}

func (n *network) withoutTCP(t *testing.T) {
	if err := n.Partition("n1|n2|n3", "tcp"); err != nil {
		t.Fatal(err)
	}
	n.withoutQuorum(t, "n1")
	// Pods' packets go by UDP between nodes: nothing is different for them.
	for range 5 {
		if err := n.reach(t.Context(), everywhere, everywhere); err != nil {
			t.Error(err)
		}
		for _, h := range n.Hosts() {
			if err := n.ways(t.Context(), h); err != nil {
				t.Error(err)
			}
		}
	}
	n.heal(t)
}

func (n *network) withoutUDP(t *testing.T) {
	if err := n.Partition("n1|n2|n3", "udp"); err != nil {
		t.Fatal(err)
	}
	// Nothing crosses; on each node all goes on, and the ways are kept.
	for _, h := range n.Hosts() {
		for range 5 {
			if err := n.reach(t.Context(), []string{h.Name}, []string{h.Name}); err != nil {
				t.Error(err)
			}
			if err := n.ways(t.Context(), h); err != nil {
				t.Error(err)
			}
		}
	}
	n.heal(t)
}

// cutOff isolates a node until the ring holds it for dead, and for some time more.
func (n *network) cutOff(t *testing.T) {
	cut := time.Now()
	if err := n.Partition("n1|n2,n3", ""); err != nil {
		t.Fatal(err)
	}
	alone, rest := []string{"n1"}, []string{"n2", "n3"}
	// No object says so where there is no quorum: the ring does. Its word is waited
	// for first: before it, the Service may choose a living pod by chance.
	n.heldForDead(t, "n1", rest...)
	n.heldForDead(t, "n2", alone...)
	n.heldForDead(t, "n3", alone...)
	n.eventually(t, "the Service to skip the others' pods on the node that is alone", func(ctx context.Context) error {
		return n.service(ctx, alone, alone)
	})
	n.eventually(t, "the Service to skip the lost node's pods", func(ctx context.Context) error {
		return n.service(ctx, rest, rest)
	})
	t.Logf("dead nodes' endpoints were skipped on all nodes %v after the cut", time.Since(cut).Round(10*time.Millisecond))
	n.withoutQuorum(t, "n1")
	more := 5 * time.Second
	if long() {
		more = time.Minute // connections come round to ports that were used during the cut
	}
	for until := time.Now().Add(more); time.Now().Before(until); {
		for _, side := range [][]string{alone, rest} {
			if err := errors.Join(n.reach(t.Context(), side, side), n.service(t.Context(), side, side)); err != nil {
				t.Fatal(err)
			}
		}
	}
	n.heal(t)
}

// heldForDead waits until the ring of one host holds others for dead.
func (n *network) heldForDead(t *testing.T, on string, others ...string) {
	t.Helper()
	host, err := n.Host(on)
	if err != nil {
		t.Fatal(err)
	}
	n.eventually(t, fmt.Sprintf("%s to hold %v for dead", on, others), func(ctx context.Context) error {
		raw, err := host.Status(ctx)
		if err != nil {
			return err
		}
		var status struct {
			Members []struct{ Name, Health string }
		}
		if err := json.Unmarshal(raw, &status); err != nil {
			return err
		}
		for _, m := range status.Members {
			if slices.Contains(others, m.Name) && m.Health != "dead" {
				return fmt.Errorf("%s is %s", m.Name, m.Health)
			}
		}
		return nil
	})
}

func (n *network) lossy(t *testing.T) {
	for _, h := range n.Hosts() {
		if err := n.Lose(h.Name, 0.3); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		for _, h := range n.Hosts() {
			if err := n.ways(t.Context(), h); err != nil {
				t.Error(err)
			}
		}
	}
	n.heal(t)
}

// oneAddressEach checks that no two pods have one address.
func (n *network) oneAddressEach(ctx context.Context) error {
	client, err := n.Hosts()[0].Client()
	if err != nil {
		return err
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	holder := map[string]string{}
	for _, pod := range pods.Items {
		if pod.Spec.HostNetwork || pod.Status.PodIP == "" {
			continue
		}
		if other, taken := holder[pod.Status.PodIP]; taken {
			return fmt.Errorf("pods %s and %s both have %s", pod.Name, other, pod.Status.PodIP)
		}
		holder[pod.Status.PodIP] = pod.Name
	}
	return nil
}

// ringLossy loses what the ring says only: all that pods do must go on without a
// single failure, whatever nodes hold of each other meanwhile.
func (n *network) ringLossy(t *testing.T) {
	for _, h := range n.Hosts() {
		if err := n.LoseRing(h.Name, 0.3); err != nil {
			t.Fatal(err)
		}
	}
	for began := time.Now(); time.Since(began) < 20*time.Second; {
		if err := errors.Join(n.reach(t.Context(), everywhere, everywhere), n.service(t.Context(), everywhere, everywhere)); err != nil {
			t.Fatal(err)
		}
		for _, h := range n.Hosts() {
			if err := n.ways(t.Context(), h); err != nil {
				t.Error(err)
			}
		}
	}
	n.heal(t)
}

// killed kills the programs of two nodes, and with them the quorum. Their pods run on,
// and packets reach them; the third node resolves names and its Services answer.
func (n *network) killed(t *testing.T) {
	for _, h := range n.Hosts()[1:] {
		if err := h.Signal(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	check := func() {
		t.Helper()
		if err := errors.Join(n.reach(t.Context(), everywhere, everywhere), n.service(t.Context(), everywhere[:1], everywhere)); err != nil {
			t.Error(err)
		}
	}
	check()
	n.heldForDead(t, "n1", "n2", "n3")
	n.withoutQuorum(t, "n1")
	check()
	startNodes(t, n.Hosts()[1:])
	n.heal(t)
}

// rebooted takes the power from a machine while the programs of the two others are gone, and
// with them the quorum. From its disk alone it starts its pods again, at the addresses they had,
// reaches those of the others, whose kernels go on, resolves names and answers for Services.
func (n *network) rebooted(t *testing.T) {
	first, others := n.Hosts()[0], n.Hosts()[1:]
	for _, h := range others {
		if err := h.Signal(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Reboot(); err != nil {
		t.Fatal(err)
	}
	startNodes(t, []*lab.Host{first})
	n.eventually(t, "the pods of "+first.Name+" to be back, and all others to be reached", func(ctx context.Context) error {
		if err := n.reach(ctx, everywhere, everywhere); err != nil {
			return err
		}
		return n.service(ctx, everywhere[:1], everywhere)
	})
	n.withoutQuorum(t, first.Name)
	if err := n.ways(t.Context(), first); err != nil {
		t.Error(err)
	}
	startNodes(t, others)
	n.heal(t)
}

// readdressed gives all nodes new addresses at once, while they run.
func (n *network) readdressed(t *testing.T) {
	if err := n.Readdress(n.Hosts()...); err != nil {
		t.Fatal(err)
	}
	n.heal(t)
}
