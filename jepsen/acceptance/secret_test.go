package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kontiki/jepsen/lab"
)

// TestSecretRotation changes the join secret of a living cluster: while a node is
// away, while one is away and moves, while all are killed in the middle of it. Who was
// removed before is shut out, and a new node needs the new secret.
func TestSecretRotation(t *testing.T) {
	c := newCluster(t, "rotate", 3)
	hosts := c.Hosts()
	n1, n3 := hosts[0], hosts[2]

	t.Run("a node that was away comes back", func(t *testing.T) {
		c.kill(t, n3)
		c.command(t, n1, "secret", "rotate")
		if a := c.account(t, n1); !a.complains("does not hold the new one") {
			t.Errorf("n1 says nothing of its file, which holds the old secret: %q", a.Problems)
		}
		c.start(t, n3)
		c.awaitSecret(t, hosts, 1)
		c.waitFormed(t)
	})
	t.Run("a node that was away and has moved comes back", func(t *testing.T) {
		c.kill(t, n3)
		c.command(t, n1, "secret", "rotate")
		if err := c.Readdress(n3); err != nil {
			t.Fatal(err)
		}
		c.start(t, n3)
		c.awaitSecret(t, hosts, 2)
		c.waitFormed(t)
	})
	for i, phase := range []string{"install", "use"} {
		t.Run("all are killed in phase "+phase, func(t *testing.T) {
			change := uint64(3 + i)
			c.command(t, n1, "secret", "rotate", "--wait=false")
			step := 3*(change-1) + 1 + uint64(i)
			waitClosely(t, "a node to be in phase "+phase, func() bool {
				for _, h := range hosts {
					if stepOnDisk(h) >= step {
						return true
					}
				}
				return false
			})
			for _, h := range hosts {
				c.kill(t, h)
			}
			t.Logf("on disk are the steps %d, %d and %d of %d", stepOnDisk(hosts[0]), stepOnDisk(hosts[1]), stepOnDisk(hosts[2]), 3*change)
			startNodes(t, hosts)
			c.waitFormed(t)
			c.awaitSecret(t, hosts, change)
		})
	}
	t.Run("a removed node is shut out", func(t *testing.T) { c.removedBefore(t, n1) })
}

func (c *cluster) kill(t *testing.T, h *lab.Host) {
	t.Helper()
	if err := h.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// stepOnDisk is how far a node has come in changing the join secret; 0 is not at all.
func stepOnDisk(h *lab.Host) uint64 {
	var file struct{ Step uint64 }
	data, err := os.ReadFile(filepath.Join(h.DataDir(), "pki", "join-secret.json"))
	if err != nil || json.Unmarshal(data, &file) != nil {
		return 0
	}
	return file.Step
}

// awaitSecret waits until nodes have finished a change of the join secret.
func (c *cluster) awaitSecret(t *testing.T, hosts []*lab.Host, change uint64) {
	t.Helper()
	for _, h := range hosts {
		c.eventually(t, fmt.Sprintf("%s to have finished change %d of the join secret", h.Name, change), func(ctx context.Context) error {
			raw, err := h.Status(ctx)
			if err != nil {
				return err
			}
			var s struct {
				JoinSecret struct {
					Change uint64
					Phase  string
				}
			}
			if err := json.Unmarshal(raw, &s); err != nil {
				return err
			}
			if s.JoinSecret.Change != change || s.JoinSecret.Phase != "done" {
				return fmt.Errorf("it tells %+v", s.JoinSecret)
			}
			return nil
		})
	}
}

// removedBefore removes a node that hears nothing of it, and changes the secret.
func (c *cluster) removedBefore(t *testing.T, n1 *lab.Host) {
	current := filepath.Join(t.TempDir(), "secret")
	show := func() {
		if err := os.WriteFile(current, []byte(c.command(t, n1, "secret", "show")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n4, err := c.Add()
	if err != nil {
		t.Fatal(err)
	}
	c.start(t, n4)
	for _, h := range []*lab.Host{n1, n4} {
		c.awaitAccount(t, h, "a word about the secret", func(a account) bool { return a.complains("does not know this node's join secret") })
	}
	show()
	c.stop(t, n4)
	c.start(t, n4, "--secret-file", current)
	c.awaitAccount(t, n4, "n4 to run", func(a account) bool { return a.Phase == "running" })
	c.kill(t, n4)
	c.awaitAccount(t, n1, "n4 to be held for dead", func(a account) bool { return a.complains("does not answer: n4") })
	c.command(t, n1, "members", "remove", "n4")
	c.command(t, n1, "secret", "rotate")
	c.start(t, n4, "--secret-file", current)
	c.awaitAccount(t, n4, "n4 to know that it was removed", func(a account) bool { return a.complains("an operator removed this node") })
	if a := c.account(t, n1); a.role("n4") != "" {
		t.Errorf("n4 is a member again: %+v", a)
	}
	c.wipe(t, n4)
	c.start(t, n4, "--secret-file", current)
	c.awaitAccount(t, n4, "a word about the secret", func(a account) bool {
		return strings.HasPrefix(a.Phase, "waiting for") && a.complains("does not know this node's join secret")
	})
	show()
	c.stop(t, n4)
	c.start(t, n4, "--secret-file", current)
	c.awaitAccount(t, n1, "n4 to be a member", func(a account) bool { return a.role("n4") == "non-voter" })
}
