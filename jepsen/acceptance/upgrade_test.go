package acceptance

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/jepsen/lab"
)

// upgrade is a cluster whose nodes run two versions of the program. The newer one writes
// commands to the log that the older one cannot read, if it may.
type upgrade struct {
	*cluster
	next   string // the newer program
	writes int
}

// TestRollingUpgrade brings three nodes to a newer program one after the other: a new
// follower under an old leader, old followers under a new leader, and back again. Once
// all are new, the newer commands are used, and old programs are refused.
func TestRollingUpgrade(t *testing.T) {
	next := os.Getenv("KONTIKI_NEXT_BIN")
	if next == "" {
		t.Skip("needs the program of the next version: run make test")
	}
	u := &upgrade{cluster: newCluster(t, "upgrade", 3), next: next}
	leader := u.leader(t, u.Hosts()[0])
	var others []*lab.Host
	for _, h := range u.Hosts() {
		if h.Name != leader.Name {
			others = append(others, h)
		}
	}
	first, second := others[0], others[1]
	u.write(t, "all are old")
	u.stays(t, 1)

	u.restart(t, first, next)
	if now := u.leader(t, leader); now.Name != leader.Name {
		t.Errorf("%s leads, not %s: the old program is to lead a new one", now.Name, leader.Name)
	}
	u.write(t, "an old leader has a new follower")
	u.stays(t, 1)

	u.leads(t, first, leader, second)
	u.write(t, "a new leader has old followers")
	u.stays(t, 1)
	u.awaitAccount(t, second, "the gate to wait for both old nodes", func(a account) bool {
		return len(a.Commands.Waits) == 2 && a.Commands.waitsFor(leader.Name) && a.Commands.waitsFor(second.Name)
	})

	u.restart(t, first, u.bin)
	u.write(t, "the new one is old again")
	u.stays(t, 1)

	u.restart(t, first, next)
	u.restart(t, second, next)
	u.write(t, "two are new")
	u.kill(t, leader)
	u.leads(t, first) // or second: the gate waits for the one that is away
	u.awaitAccount(t, first, "the gate to wait for the node that is away", func(a account) bool {
		return len(a.Commands.Waits) == 1 && strings.Contains(a.Commands.Waits[0], leader.Name+" (does not answer")
	})
	u.stays(t, 1, first, second)
	if err := leader.StartAs(next); err != nil {
		t.Fatal(err)
	}
	for _, h := range u.Hosts() {
		u.awaitAccount(t, h, "the gate to open by itself", func(a account) bool {
			return a.Phase == "running" && a.Commands.Version == 2 && a.Commands.Knows == 2 && len(a.Commands.Waits) == 0
		})
	}
	u.write(t, "the gate is open")
	t.Run("an old program does not start any more", func(t *testing.T) { u.refusesToStart(t, second) })
	t.Run("an old node is not let in, and both sides say so", func(t *testing.T) { u.refusesToJoin(t, leader) })
}

func (c commands) waitsFor(name string) bool {
	for _, w := range c.Waits {
		if strings.HasPrefix(w, name+" (its program knows version 1") {
			return true
		}
	}
	return false
}

// restart stops a node and starts it with another program.
func (u *upgrade) restart(t *testing.T, h *lab.Host, program string) {
	t.Helper()
	u.stop(t, h)
	if err := h.StartAs(program); err != nil {
		t.Fatal(err)
	}
	u.awaitAccount(t, h, "it to run again", func(a account) bool { return a.Phase == "running" && a.Leader != "" })
}

// leads has a node lead: the others give their votes up for a moment.
func (u *upgrade) leads(t *testing.T, h *lab.Host, others ...*lab.Host) {
	t.Helper()
	for _, o := range others {
		u.command(t, h, "members", "demote", o.Name)
	}
	u.awaitAccount(t, h, "it to lead", func(a account) bool { return a.Leader != "" && (len(others) == 0 || a.Leader == a.ID) })
	for _, o := range others {
		u.command(t, h, "members", "auto", o.Name)
	}
	u.awaitAccount(t, h, "the votes to be given back", func(a account) bool {
		return len(others) == 0 || len(strings.Fields(a.voters())) == len(others)+1
	})
}

// write writes through every node, and waits until every other shows it.
func (u *upgrade) write(t *testing.T, when string) {
	t.Helper()
	for _, h := range u.Hosts() {
		u.writes++
		name := fmt.Sprintf("written-%d", u.writes)
		client := u.client(t, h)
		made, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatalf("a write through %s, when %s: %v", h.Name, when, err)
		}
		for _, o := range u.Hosts() {
			client := u.client(t, o)
			u.eventually(t, "what was written through "+h.Name+" to be on "+o.Name, func(ctx context.Context) error {
				_, err := client.CoreV1().ConfigMaps("default").Get(ctx, name, metav1.GetOptions{ResourceVersion: made.ResourceVersion})
				return err
			})
		}
	}
}

// stays looks at the version of commands that nodes, or all of them, write.
func (u *upgrade) stays(t *testing.T, version int, hosts ...*lab.Host) {
	t.Helper()
	if len(hosts) == 0 {
		hosts = u.Hosts()
	}
	for _, h := range hosts {
		if a := u.account(t, h); a.Commands.Version != version || a.complains("does not work") {
			t.Fatalf("%s writes commands of version %d, want %d: %q", h.Name, a.Commands.Version, version, a.Problems)
		}
	}
}

func (u *upgrade) refusesToStart(t *testing.T, h *lab.Host) {
	u.stop(t, h)
	if err := h.StartAs(u.bin); err != nil {
		t.Fatal(err)
	}
	const want = "this program is too old for its cluster"
	u.eventually(t, "the old program to say why it does not work", func(ctx context.Context) error {
		log, err := os.ReadFile(h.LogPath())
		if err == nil && !strings.Contains(string(log), want) {
			err = fmt.Errorf("its log does not say that %s", want)
		}
		return err
	})
	if _, err := h.Pid(); err == nil { // its disk did not know yet that the gate is open, or it takes a moment
		u.eventually(t, "it to end or to tell", func(ctx context.Context) error {
			if _, err := h.Pid(); err != nil {
				return nil
			}
			a, err := accountOf(ctx, h)
			if err == nil && !a.complains(want) {
				err = fmt.Errorf("it tells %q", a.Problems)
			}
			return err
		})
	}
	if _, err := h.Pid(); err == nil {
		u.stop(t, h)
	}
	if err := h.StartAs(u.next); err != nil {
		t.Fatal(err)
	}
	u.awaitAccount(t, h, "the new program to run on what the old one left", func(a account) bool { return a.Phase == "running" })
	u.write(t, "the new program is back")
}

func (u *upgrade) refusesToJoin(t *testing.T, member *lab.Host) {
	h, err := u.Add()
	if err != nil {
		t.Fatal(err)
	}
	u.start(t, h)
	u.awaitAccount(t, h, "to be told that its program is too old", func(a account) bool {
		return a.complains("is not let into cluster") && a.complains("this program is too old for its cluster")
	})
	u.eventually(t, "a member to tell of it", func(ctx context.Context) error {
		for _, m := range u.Hosts()[:3] {
			if a, err := accountOf(ctx, m); err != nil || a.complains("node "+h.Name) && a.complains("is too old") {
				return err
			}
		}
		return fmt.Errorf("none does")
	})
	u.stop(t, h)
	if err := h.StartAs(u.next); err != nil {
		t.Fatal(err)
	}
	u.awaitAccount(t, member, "the node to be let in with the new program", func(a account) bool { return a.role(h.Name) != "" })
}
