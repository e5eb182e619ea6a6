package acceptance

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/jepsen/lab"
)

// TestReaddressing gives nodes new addresses, one by one and all at once, running
// and while they are off: the cluster heals by itself and has lost nothing.
func TestReaddressing(t *testing.T) {
	chance := seeded(t)
	c := newCluster(t, "moves", 3)
	w := newWorkload(t, c)
	moves := []struct {
		name string
		move func(t *testing.T) error
	}{
		{"all at once", func(*testing.T) error { return c.Readdress(c.Hosts()...) }},
		{"the leader", func(t *testing.T) error { return c.Readdress(c.agreedLeader(t)) }},
		{"all, while they are off", func(t *testing.T) error {
			for _, h := range c.Hosts() {
				if err := h.Reboot(); err != nil {
					return err
				}
			}
			if err := c.Readdress(c.Hosts()...); err != nil {
				return err
			}
			startNodes(t, c.Hosts())
			return nil
		}},
		{"one", func(*testing.T) error { return c.Readdress(c.Hosts()[chance.IntN(len(c.Hosts()))]) }},
	}
	for i := range rounds(t, 3) {
		t.Run(fmt.Sprintf("%d %s", i, moves[i%len(moves)].name), func(t *testing.T) {
			if err := moves[i%len(moves)].move(t); err != nil {
				t.Fatal(err)
			}
			for _, h := range c.Hosts() {
				c.eventually(t, "the API of "+h.Name+" to answer at "+h.Addr.String(), func(ctx context.Context) error {
					return c.knowsAddresses(ctx, h)
				})
			}
			c.agreedLeader(t)
			for _, h := range c.Hosts() {
				w.writeThrough(t, h)
			}
			w.check(t)
		})
		if t.Failed() {
			return
		}
	}
}

// knowsAddresses tells whether the API of a host has every node where it is now.
func (c *cluster) knowsAddresses(ctx context.Context, through *lab.Host) error {
	client, err := through.Client()
	if err != nil {
		return err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, node := range nodes.Items {
		h, err := c.Host(node.Name)
		if err != nil {
			return err
		}
		for _, a := range node.Status.Addresses {
			if a.Type == corev1.NodeInternalIP && a.Address != h.Addr.String() {
				return fmt.Errorf("the Node %s is said to be at %s, it is at %s", node.Name, a.Address, h.Addr)
			}
		}
	}
	return nil
}
