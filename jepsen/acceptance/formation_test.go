package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/jepsen/lab"
)

// waitFormed waits until every host's node belongs to one cluster of all of them,
// and says that it is ready.
func (c *cluster) waitFormed(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id, err := c.WaitFormed(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return id
}

func startNodes(t *testing.T, hosts []*lab.Host, flags ...string) {
	t.Helper()
	for _, h := range hosts {
		if err := h.Start(flags...); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFormationByBeacon: nodes that were told of no other find each other. Two of
// three wait for the third, and a fourth joins later.
func TestFormationByBeacon(t *testing.T) {
	c := newLab(t, lab.Config{Name: "beacon", Beacon: true}, 3)
	startNodes(t, c.Hosts()[:2])
	c.eventually(t, "two nodes to wait for a third", func(ctx context.Context) error {
		for _, s := range c.Status(ctx)[:2] {
			if !strings.HasPrefix(s.Phase, "waiting for 3 blank nodes") {
				return fmt.Errorf("%s: %s, phase %q", s.Host, s.State, s.Phase)
			}
		}
		return nil
	})
	startNodes(t, c.Hosts()[2:])
	id := c.waitFormed(t)
	n4, err := c.Add()
	if err != nil {
		t.Fatal(err)
	}
	startNodes(t, []*lab.Host{n4})
	if now := c.waitFormed(t); now != id {
		t.Errorf("with a fourth node the cluster is %s, it was %s", now, id)
	}
}

// TestFormationOfTwoGroups: two groups of three on one network, of which each has
// its own secret and one was even told the other's addresses, found two clusters.
func TestFormationOfTwoGroups(t *testing.T) {
	c := newLab(t, lab.Config{Name: "groups", Beacon: true}, 6)
	a, b := c.Hosts()[:3], c.Hosts()[3:]
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("the secret of the other group, which nobody else knows\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	startNodes(t, a, "--expect", "3")
	startNodes(t, b, "--expect", "3", "--secret-file", secret, "--join", "n1,n2,n3")
	clusters := map[string]bool{}
	for _, group := range [][]*lab.Host{a, b} {
		want := fmt.Sprint(names(group))
		for _, h := range group {
			c.eventually(t, fmt.Sprintf("%s to be in a cluster of %s", h.Name, want), func(ctx context.Context) error {
				return membersAre(ctx, h, want)
			})
		}
		clusters[c.agreedCluster(t, group)] = true
	}
	if len(clusters) != 2 {
		t.Errorf("the two groups are in clusters %v", clusters)
	}
}

// TestFormationOfTwoHalves: six blank nodes with one secret, of which each half sees itself alone,
// are twice as many as expected, so they may found two clusters. When the halves meet, since their
// nodes look up the names of all, each stays what it is and says so.
func TestFormationOfTwoHalves(t *testing.T) {
	c := newLab(t, lab.Config{Name: "halves"}, 6)
	halves := [][]*lab.Host{c.Hosts()[:3], c.Hosts()[3:]}
	if err := c.Partition("n1,n2,n3|n4,n5,n6", ""); err != nil {
		t.Fatal(err)
	}
	startNodes(t, c.Hosts(), "--expect", "3")
	founded := func() (clusters []string) {
		t.Helper()
		for _, half := range halves {
			want := fmt.Sprint(names(half))
			for _, h := range half {
				c.eventually(t, fmt.Sprintf("%s to be in a cluster of %s", h.Name, want), func(ctx context.Context) error {
					return membersAre(ctx, h, want)
				})
			}
			clusters = append(clusters, c.agreedCluster(t, half))
		}
		return clusters
	}
	before := founded()
	if before[0] == before[1] {
		t.Fatalf("halves that did not see each other are both in cluster %s", before[0])
	}
	if err := c.Heal(); err != nil {
		t.Fatal(err)
	}
	for i, half := range halves {
		for _, h := range half {
			c.awaitAccount(t, h, "a word about the other cluster", func(a account) bool { return a.complains("it belongs to cluster " + before[1-i]) })
		}
	}
	for i, half := range halves {
		c.note(t, half[0], fmt.Sprint("written-by-", i))
		c.has(t, half[2], fmt.Sprint("written-by-", i))
	}
	if after := founded(); !slices.Equal(after, before) {
		t.Errorf("the halves were clusters %v, and are %v", before, after)
	}
}

// membersAre tells whether the API of a host's node knows just these nodes.
func membersAre(ctx context.Context, h *lab.Host, want string) error {
	client, err := h.Client()
	if err != nil {
		return err
	}
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var got []string
	for _, node := range list.Items {
		got = append(got, node.Name)
	}
	slices.Sort(got)
	if fmt.Sprint(got) != want {
		return fmt.Errorf("it knows the nodes %v", got)
	}
	return nil
}

// agreedCluster is the cluster that a group of hosts is in, which is one.
func (c *cluster) agreedCluster(t *testing.T, group []*lab.Host) string {
	t.Helper()
	seen := map[string]bool{}
	var id string
	for _, s := range c.Status(t.Context()) {
		if slices.Contains(names(group), s.Host) {
			id, seen[s.Cluster] = s.Cluster, true
		}
	}
	if len(seen) != 1 || id == "" {
		t.Fatalf("%v are in clusters %v, want one", names(group), seen)
	}
	return id
}

// moments are when the coordinator of a formation dies: seen on disks, where each
// step of it is written before anybody is told. Those that matter most come first.
var moments = []struct {
	name   string
	passed func(coordinator *lab.Host, others []*lab.Host) bool
}{
	{"another has promised", func(_ *lab.Host, others []*lab.Host) bool { return anyHas(others, "promised") }},
	{"it has founded", func(coordinator *lab.Host, _ []*lab.Host) bool { return formation(coordinator)["founding"] != nil }},
	{"another has entered", func(_ *lab.Host, others []*lab.Host) bool { return anyHas(others, "outcome") }},
	{"it has begun", func(coordinator *lab.Host, _ []*lab.Host) bool { return formation(coordinator) != nil }},
	{"it has entered", func(coordinator *lab.Host, _ []*lab.Host) bool { return formation(coordinator)["outcome"] != nil }},
}

// formation is what a node has written about its formation; nil before it has.
func formation(h *lab.Host) (state map[string]json.RawMessage) {
	data, err := os.ReadFile(filepath.Join(h.DataDir(), "ring", "formation.json"))
	if err != nil || json.Unmarshal(data, &state) != nil {
		return nil
	}
	return state
}

func anyHas(hosts []*lab.Host, step string) bool {
	return slices.ContainsFunc(hosts, func(h *lab.Host) bool { return formation(h)[step] != nil })
}

// TestFormationWithoutItsCoordinator kills the coordinator while a cluster is being
// founded. It comes back, and there is one cluster with all nodes.
func TestFormationWithoutItsCoordinator(t *testing.T) {
	chance := seeded(t)
	c := newLab(t, lab.Config{Name: "coord", Beacon: true}, 3)
	deaths := rounds(t, 3)
	for i := range deaths {
		moment := moments[i%len(moments)]
		t.Run(fmt.Sprintf("%d killed when %s", i, moment.name), func(t *testing.T) {
			order := c.Hosts()
			chance.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			startNodes(t, order)
			coordinator := c.coordinator(t)
			others := c.others(coordinator)
			waitClosely(t, moment.name, func() bool { return moment.passed(coordinator, others) })
			if err := coordinator.Signal(t.Context(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			startNodes(t, []*lab.Host{coordinator})
			c.waitFormed(t)
			c.agreedCluster(t, c.Hosts())
		})
		if t.Failed() {
			return
		}
		for _, h := range c.Hosts() {
			if err := h.Wipe(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// coordinator is the node that founds: the one with the lowest id.
func (c *cluster) coordinator(t *testing.T) (coordinator *lab.Host) {
	t.Helper()
	waitClosely(t, "every node to have an id", func() bool {
		var lowest string
		for _, h := range c.Hosts() {
			id, err := os.ReadFile(filepath.Join(h.DataDir(), "node-id"))
			if err != nil || len(id) == 0 {
				return false
			}
			if lowest == "" || string(id) < lowest {
				lowest, coordinator = string(id), h
			}
		}
		return true
	})
	return coordinator
}

// waitClosely looks often: what it waits for lasts for milliseconds.
func waitClosely(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatal(errors.New("waited too long for: " + what))
		}
	}
}
