package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kontiki/jepsen/lab"
)

// TestNetworkOfHostGateways tries the ways through a cluster whose nodes are each
// other's gateways, without a tunnel.
func TestNetworkOfHostGateways(t *testing.T) {
	if !long() {
		t.Skip("needs KONTIKI_LONG=1, as make jepsen sets it: TestNetwork takes the same ways")
	}
	c := newLab(t, lab.Config{Name: "nethg"}, 3)
	startNodes(t, c.Hosts(), "--pod-network", "host-gw")
	c.waitFormed(t)
	n := network{cluster: c, program: c.probes(t)}
	n.outside = fromHere(n.program)
	c.kubectl(t, c.Hosts()[0], "apply", "-f", filepath.Join("testdata", "network.yaml"))
	client := c.client(t, c.Hosts()[0])
	c.eventually(t, "two ready pods on every node", func(ctx context.Context) (err error) {
		if n.pods, err = readyPods(ctx, client, "app=probe"); err == nil && len(n.pods) != 6 {
			err = fmt.Errorf("%d pods are ready", len(n.pods))
		}
		return err
	})
	for _, pod := range n.pods {
		n.names = append(n.names, pod.Name)
	}
	for _, h := range c.Hosts() {
		n.nodes = append(n.nodes, fromNode(h, n.program))
	}
	var err error
	if n.services, err = c.serviceAddresses(t.Context(), t); err != nil {
		t.Fatal(err)
	}
	c.eventually(t, "every pod to reach every pod and the Service", n.whole)
	t.Run("pod to pod, every pair, every size", n.podToPod)
	t.Run("Services from pods, nodes and outside", n.toServices)
	t.Run("the way out", n.wayOut)
	t.Run("all nodes readdressed", n.readdressed)
	for _, line := range n.kernelOf(t, c.Hosts()[0]) {
		if strings.Contains(line, tunnelName) {
			t.Errorf("there is a tunnel: %s", line)
		}
	}
	if err := c.Hosts()[0].Signal(t.Context(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.refusesToStart(t, c.Hosts()[0], "podNetwork is host-gw", "--pod-network", "vxlan")
}

// refusesToStart runs a node that must end by itself and say why.
func (c *cluster) refusesToStart(t *testing.T, h *lab.Host, why string, flags ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out bytes.Buffer
	err := h.Exec(ctx, nil, &out, &out, "kontiki", append([]string{"node", "--name", h.Name, "--data-dir", h.DataDir()}, flags...)...)
	if err == nil || ctx.Err() != nil || !strings.Contains(out.String(), why) {
		t.Errorf("a node with %v: %v, want it to say %q, it said:\n%s", flags, err, why, out.String())
	}
}

// TestSettingsAreRefused: what cannot work is said before anything is founded, and
// what was founded does not change.
func TestSettingsAreRefused(t *testing.T) {
	c := newLab(t, lab.Config{Name: "refuse"}, 1)
	h := c.Hosts()[0]
	file := func(content string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "cluster.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for why, content := range map[string]string{
		"overlap":                                "serviceCIDR: 10.42.1.0/24\n",
		"too small a subnet":                     "nodePrefixLen: 31\n",
		"too small: give it 16":                  "serviceCIDR: 10.43.0.0/29\n",
		"overlaps " + c.network().String() + ",": fmt.Sprintf("clusterCIDR: %s\nnodePrefixLen: 28\n", c.network()),
	} {
		c.refusesToStart(t, h, why, "--cluster-config", file(content))
	}
	c.refusesToStart(t, h, `there is no backend "ipip"`, "--pod-network", "ipip")
	startNodes(t, c.Hosts())
	c.waitFormed(t)
	c.otherSettingsStayOut(t, h, file("clusterCIDR: 10.50.0.0/16\n"))
	if err := h.Signal(t.Context(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.refusesToStart(t, h, "clusterCIDR is 10.42.0.0/16 in this cluster, and this node was given 10.50.0.0/16", "--cluster-config", file("clusterCIDR: 10.50.0.0/16\n"))
}

// otherSettingsStayOut has a blank node come that was given settings which are not the
// cluster's. It is no member, however long it asks, and both ends say why; without them
// it is let in.
func (c *cluster) otherSettingsStayOut(t *testing.T, member *lab.Host, settings string) {
	t.Helper()
	n2, err := c.Add()
	if err != nil {
		t.Fatal(err)
	}
	c.start(t, n2, "--expect", "3", "--cluster-config", settings)
	const why = "clusterCIDR is 10.42.0.0/16 in this cluster, and this node was given 10.50.0.0/16"
	for _, h := range []*lab.Host{n2, member} {
		c.awaitAccount(t, h, "the settings to be refused", func(a account) bool { return a.complains(why) })
	}
	if role := c.account(t, member).role(n2.Name); role != "" {
		t.Errorf("a node that refuses the cluster's settings is a member, %s", role)
	}
	c.stop(t, n2)
	c.start(t, n2, "--expect", "3")
	c.awaitAccount(t, member, n2.Name+" to be let in", func(a account) bool { return a.role(n2.Name) == "non-voter" && !a.complains(why) })
	c.stop(t, n2)
}
