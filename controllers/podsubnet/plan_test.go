package podsubnet

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"kontiki/controllers/plantest"
)

type input struct {
	Cluster netip.Prefix            `json:"cluster"`
	Bits    int                     `json:"bits"`
	Next    int                     `json:"next"`
	Made    map[string]netip.Prefix `json:"made"`
	Nodes   []*corev1.Node          `json:"nodes"`
	Pods    []*corev1.Pod           `json:"pods"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) decision {
		p, err := newPool(in.Cluster, in.Bits)
		if err != nil {
			t.Fatal(err)
		}
		return plan(p, in.Nodes, in.Pods, in.Made, in.Next)
	})
}

// TestNeverTwoNodesOneSubnet plays nodes that come and go, pods that outlive them,
// caches that show grants late and leaders that forget, and looks for an overlap.
func TestNeverTwoNodesOneSubnet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := newPool(netip.MustParsePrefix("10.42.0.0/16"), rapid.IntRange(17, 20).Draw(t, "bits"))
		if err != nil {
			t.Fatal(err)
		}
		var nodes []*corev1.Node
		var pods []*corev1.Pod
		truth, made, next, born := map[string]netip.Prefix{}, map[string]netip.Prefix{}, 0, 0
		shown := func(n *corev1.Node) {
			if prefix, ok := truth[string(n.UID)]; ok {
				n.Spec.PodCIDRs = []string{prefix.String()}
				delete(made, string(n.UID))
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				born++
				n := &corev1.Node{}
				n.Name, n.UID = fmt.Sprintf("n%d", born), types.UID(fmt.Sprintf("u%d", born))
				nodes = append(nodes, n)
			case 1:
				if len(nodes) > 0 {
					i := rapid.IntRange(0, len(nodes)-1).Draw(t, "gone")
					if subnet, ok := truth[string(nodes[i].UID)]; ok && rapid.Bool().Draw(t, "leaves a pod") {
						pod := &corev1.Pod{}
						pod.Status.PodIPs = []corev1.PodIP{{IP: subnet.Addr().Next().Next().String()}}
						pods = append(pods, pod)
					}
					delete(truth, string(nodes[i].UID))
					nodes = append(nodes[:i:i], nodes[i+1:]...)
				}
			case 2: // the cache catches up, for some
				for _, n := range nodes {
					if rapid.Bool().Draw(t, "shown") {
						shown(n)
					}
				}
			case 3: // another leader: its caches are behind nothing that was acknowledged
				for _, n := range nodes {
					shown(n)
				}
				made, next = map[string]netip.Prefix{}, 0
			case 4:
				if len(pods) > 0 {
					pods = pods[1:]
				}
			}
			d := plan(p, nodes, pods, made, next)
			next = d.Next
			for _, g := range d.Grants {
				for uid, other := range truth {
					if g.Subnet.Overlaps(other) {
						t.Fatalf("%s was granted to %s and is held by %s", g.Subnet, g.UID, uid)
					}
				}
				for _, pod := range pods {
					if addr := pod.Status.PodIPs[0].IP; g.Subnet.Contains(netip.MustParseAddr(addr)) {
						t.Fatalf("%s was granted to %s, and a pod still has %s", g.Subnet, g.UID, addr)
					}
				}
				if _, twice := truth[g.UID]; twice {
					t.Fatalf("%s was granted twice", g.UID)
				}
				truth[g.UID], made[g.UID] = g.Subnet, g.Subnet
			}
		}
	})
}

func TestPoolRefusesWhatCannotBeCut(t *testing.T) {
	for _, c := range []struct {
		cluster string
		bits    int
	}{{"10.42.0.0/16", 15}, {"10.42.0.0/16", 33}, {"fd00::/48", 90}} {
		if _, err := newPool(netip.MustParsePrefix(c.cluster), c.bits); err == nil {
			t.Errorf("%s in /%d was accepted", c.cluster, c.bits)
		}
	}
}
