package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"kontiki/jepsen/lab"
)

// account is what a node says of itself.
type account struct {
	ID      string `json:"id"`
	Phase   string `json:"phase"`
	Cluster string `json:"cluster"`
	Leader  string `json:"leader"`
	Members []struct {
		ID, Name, Role, Health string
		Why, Wish              string
		AppliedRevision        uint64
		LastContact            time.Time
	} `json:"members"`
	Revision uint64   `json:"revision"`
	Commands commands `json:"commands"`
	Problems []string `json:"problems"`
}

// commands tells which version of the log's commands is in use.
type commands struct {
	Version int      `json:"version"`
	Knows   int      `json:"knows"`
	Waits   []string `json:"waits"`
}

// why is the reason of a member's role, by name.
func (a account) why(name string) string {
	for _, m := range a.Members {
		if m.Name == name {
			return m.Why
		}
	}
	return ""
}

// voters are the names of those who vote, in order.
func (a account) voters() string {
	var names []string
	for _, m := range a.Members {
		if m.Role == "voter" {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// role is a member's role, by name; empty for one that is none.
func (a account) role(name string) string {
	for _, m := range a.Members {
		if m.Name == name {
			return m.Role
		}
	}
	return ""
}

func (a account) complains(of string) bool {
	return slices.ContainsFunc(a.Problems, func(p string) bool { return strings.Contains(p, of) })
}

// TestMembers has a fourth machine join a cluster, be removed, come back as a new
// node, lose its disk, and try with a wrong secret.
func TestMembers(t *testing.T) {
	c := newCluster(t, "memb", 3)
	n1 := c.Hosts()[0]
	n4, err := c.Add()
	if err != nil {
		t.Fatal(err)
	}

	client := c.client(t, n1)
	for _, h := range c.Hosts()[:3] {
		c.command(t, h, "image", "load", filepath.Join(filepath.Dir(c.bin), "examples", "web.tar"))
	}
	c.kubectl(t, n1, "apply", "-f", filepath.Join("testdata", "everywhere.yaml"))
	c.waitFor(t, client, "app=everywhere", 3)
	t.Run("a machine that comes later joins without a vote", func(t *testing.T) {
		c.start(t, n4)
		c.awaitAccount(t, n1, "n4 to be a non-voter", func(a account) bool { return a.role("n4") == "non-voter" })
		c.runsPods(t, n4)
		c.awaitAccount(t, n1, "every member's state", func(a account) bool {
			for _, m := range a.Members {
				if m.Health != "alive" || m.AppliedRevision == 0 || m.LastContact.IsZero() {
					return false
				}
			}
			return len(a.Members) == 4
		})
	})
	t.Run("a DaemonSet has a pod on it", func(t *testing.T) { c.everywhere(t, client, 4) })
	t.Run("it gets a vote and loses it", func(t *testing.T) {
		c.command(t, n4, "members", "promote", "n4")
		c.awaitAccount(t, n4, "n4 to vote", func(a account) bool { return a.role("n4") == "voter" })
		c.command(t, n4, "members", "demote", "n4")
		c.awaitAccount(t, n1, "n4 to be a non-voter", func(a account) bool { return a.role("n4") == "non-voter" })
	})
	t.Run("the leader is removed like any other, and another leads", func(t *testing.T) {
		leader := c.leader(t, n1)
		other := c.Hosts()[0]
		if other.Name == leader.Name {
			other = c.Hosts()[1]
		}
		c.command(t, other, "members", "demote", leader.Name)
		c.awaitAccount(t, other, "another leader", func(a account) bool { return a.Leader != "" && a.role(leader.Name) == "non-voter" })
		c.command(t, other, "members", "promote", leader.Name)
	})
	t.Run("a node cannot remove itself, nor the cluster its quorum", func(t *testing.T) {
		if out, err := c.try(t.Context(), n1, "members", "remove", "n1"); err == nil || !strings.Contains(out, "run this on another node") {
			t.Errorf("n1 removes n1: %v, %s", err, out)
		}
		if out, err := c.try(t.Context(), n1, "members", "remove", "nobody"); err == nil || !strings.Contains(out, "no member") {
			t.Errorf("n1 removes nobody: %v, %s", err, out)
		}
	})
	t.Run("a removed node stops and stays out", func(t *testing.T) { c.removed(t, n1, n4) })
	t.Run("a node of another cluster is refused, and both sides say so", func(t *testing.T) {
		c.wipe(t, n4)
		if err := c.Partition("n4|n1,n2,n3", ""); err != nil {
			t.Fatal(err)
		}
		c.start(t, n4, "--expect", "1")
		c.awaitAccount(t, n4, "n4 to be a cluster of its own", func(a account) bool { return a.Phase == "running" && len(a.Members) == 1 })
		if err := c.Heal(); err != nil {
			t.Fatal(err)
		}
		for _, h := range []*lab.Host{n1, n4} {
			c.awaitAccount(t, h, "a word about the other cluster", func(a account) bool { return a.complains("it belongs to cluster") })
		}
	})
	t.Run("another join secret is refused, and both sides say so", func(t *testing.T) {
		c.wipe(t, n4)
		secret := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(secret, []byte(strings.Repeat("wrong", 10)), 0o600); err != nil {
			t.Fatal(err)
		}
		c.start(t, n4, "--secret-file", secret)
		for _, h := range []*lab.Host{n1, n4} {
			c.awaitAccount(t, h, "a word about the secret", func(a account) bool { return a.complains("does not know this node's join secret") })
		}
	})
	t.Run("a DaemonSet counts no pod of it any more", func(t *testing.T) { c.everywhere(t, client, 3) })
	t.Run("with an empty data directory it is a new node", func(t *testing.T) {
		c.wipe(t, n4)
		c.start(t, n4)
		c.awaitAccount(t, n1, "n4 to be a member again", func(a account) bool { return a.role("n4") == "non-voter" })
		c.runsPods(t, n4)
	})
	t.Run("a machine whose disk was lost takes its name back", func(t *testing.T) { c.diskLost(t, n1, n4) })
}

// everywhere waits until the DaemonSet of that name has a ready pod on each of the first n
// hosts, no other pod, and says so.
func (c *cluster) everywhere(t *testing.T, client kubernetes.Interface, n int) {
	t.Helper()
	var on []string
	for _, node := range c.waitFor(t, client, "app=everywhere", n) {
		on = append(on, node)
	}
	slices.Sort(on)
	if want := names(c.Hosts()[:n]); !slices.Equal(on, want) {
		t.Errorf("its pods are on %v, want %v", on, want)
	}
	c.eventually(t, fmt.Sprintf("a status that tells of %d pods", n), func(ctx context.Context) error {
		d, err := client.AppsV1().DaemonSets("default").Get(ctx, "everywhere", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := d.Status; int(s.DesiredNumberScheduled) != n || int(s.NumberReady) != n || s.NumberMisscheduled != 0 {
			return fmt.Errorf("its status is %+v", s)
		}
		return nil
	})
}

func (c *cluster) start(t *testing.T, h *lab.Host, extra ...string) {
	t.Helper()
	if err := h.Start(extra...); err != nil {
		t.Fatal(err)
	}
}

// removed removes n4 and looks at what is left of it.
func (c *cluster) removed(t *testing.T, n1, n4 *lab.Host) {
	client := c.client(t, n1)
	c.command(t, n1, "members", "remove", "n4")
	c.awaitAccount(t, n4, "n4 to know it", func(a account) bool {
		return a.Phase == "removed from its cluster" && a.complains("an operator removed this node")
	})
	if a := c.account(t, n1); a.role("n4") != "" {
		t.Errorf("n4 is still a member: %+v", a)
	}
	if _, err := client.CoreV1().Nodes().Get(t.Context(), "n4", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Node object of n4: %v, want NotFound", err)
	}
	var links bytes.Buffer
	if err := n4.Exec(t.Context(), nil, &links, &links, "cat", "/proc/net/dev"); err != nil || strings.Contains(links.String(), "kontiki") {
		t.Errorf("the pod network of n4 is still there: %v\n%s", err, links.String())
	}
	c.stop(t, n4)
	c.start(t, n4)
	c.awaitAccount(t, n4, "n4 to stay aside", func(a account) bool { return a.complains("an operator removed this node") })

	// Should it forget that it was removed, the others have not.
	c.stop(t, n4)
	if err := os.Remove(filepath.Join(n4.DataDir(), "removed.json")); err != nil {
		t.Fatal(err)
	}
	c.start(t, n4)
	c.awaitAccount(t, n4, "n4 to hear it again", func(a account) bool { return a.complains("an operator removed this node") })
	for _, h := range c.Hosts()[:3] {
		if log, err := os.ReadFile(h.LogPath()); err == nil && strings.Contains(string(log), "is refused: an operator removed it") {
			return
		}
	}
	t.Error("nobody has logged that it refused n4")
}

// diskLost kills n4, empties its disk, and starts it under its old name.
func (c *cluster) diskLost(t *testing.T, n1, n4 *lab.Host) {
	before := c.account(t, n4).ID
	c.wipe(t, n4)
	c.awaitAccount(t, n1, "n4 to be held for dead", func(a account) bool { return a.complains("does not answer: n4") })
	c.start(t, n4)
	c.awaitAccount(t, n4, "its name to be refused", func(a account) bool { return a.complains("start it with --replace") })
	c.stop(t, n4)
	c.start(t, n4, "--replace")
	c.awaitAccount(t, n4, "n4 to be in its old place", func(a account) bool { return a.Phase == "running" && a.role("n4") == "non-voter" })
	if after := c.account(t, n4).ID; after == before {
		t.Errorf("n4 has its old id %s without its disk", after)
	}
	if a := c.account(t, n1); len(a.Members) != 4 {
		t.Errorf("%d members after the replacement: %+v", len(a.Members), a.Members)
	}
}

// runsPods runs a pod on a host, and reads it through the host's own API.
func (c *cluster) runsPods(t *testing.T, h *lab.Host) {
	t.Helper()
	c.awaitAccount(t, h, "the node to run", func(a account) bool { return a.Phase == "running" })
	c.command(t, h, "image", "load", filepath.Join(filepath.Dir(c.bin), "examples", "web.tar"))
	client := c.client(t, h)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "on-" + h.Name + "-"},
		Spec: corev1.PodSpec{NodeName: h.Name, Containers: []corev1.Container{{
			Name: "web", Image: "kontiki.local/web:v1", ImagePullPolicy: corev1.PullNever,
		}}},
	}
	c.eventually(t, "a pod to be taken for "+h.Name, func(ctx context.Context) error {
		made, err := client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		if err == nil {
			pod = made
		}
		return err
	})
	c.eventually(t, "the pod "+pod.Name+" to run", func(ctx context.Context) error {
		now, err := client.CoreV1().Pods("default").Get(ctx, pod.Name, metav1.GetOptions{})
		if err == nil && now.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("it is %s", now.Status.Phase)
		}
		return err
	})
}

func (c *cluster) stop(t *testing.T, h *lab.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := h.Signal(ctx, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// wipe takes a host's power and empties its disk.
func (c *cluster) wipe(t *testing.T, h *lab.Host) {
	t.Helper()
	if err := h.Wipe(); err != nil {
		t.Fatal(err)
	}
}

// command runs kontiki on a host.
func (c *cluster) command(t *testing.T, h *lab.Host, args ...string) string {
	t.Helper()
	out, err := c.try(t.Context(), h, args...)
	if err != nil {
		t.Fatalf("kontiki %s on %s: %v\n%s", strings.Join(args, " "), h.Name, err, out)
	}
	return out
}

func (c *cluster) try(ctx context.Context, h *lab.Host, args ...string) (string, error) {
	var out bytes.Buffer
	err := h.Exec(ctx, nil, &out, &out, "kontiki", args...)
	return out.String(), err
}

func (c *cluster) account(t *testing.T, h *lab.Host) account {
	t.Helper()
	a, err := accountOf(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func accountOf(ctx context.Context, h *lab.Host) (a account, err error) {
	raw, err := h.Status(ctx)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(raw, &a)
}

func (c *cluster) awaitAccount(t *testing.T, h *lab.Host, what string, ok func(account) bool) {
	t.Helper()
	c.eventually(t, what+", as "+h.Name+" tells", func(ctx context.Context) error {
		a, err := accountOf(ctx, h)
		if err == nil && !ok(a) {
			err = fmt.Errorf("it tells %+v", a)
		}
		return err
	})
}
