package acceptance

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kontiki/jepsen/lab"
)

// nodeComesAndGoes has a node join, and later die with all that it runs, each time with the leader
// struck at the same moment: whoever leads next gives the node its pod of the DaemonSet, replaces
// what ran there, and forgets the node when it is removed.
func (c *cluster) nodeComesAndGoes(t *testing.T, n4 *lab.Host, fault nemesis) {
	leader := c.leader(t, c.Hosts()[0])
	via := c.Hosts()[0]
	if via.Name == leader.Name {
		via = c.Hosts()[1]
	}
	client := c.client(t, via)
	c.start(t, n4)
	c.awaitAccount(t, via, "n4 to be a member", func(a account) bool { return a.role("n4") != "" })
	if err := fault.strike(t, c, leader); err != nil {
		t.Fatal(err)
	}
	c.anotherLeads(t, via, leader)
	c.eventually(t, "n4 to take images", func(ctx context.Context) error {
		_, err := c.try(ctx, n4, "image", "load", filepath.Join(filepath.Dir(c.bin), "examples", "web.tar"))
		return err
	})
	c.eventually(t, "the DaemonSet's pod on n4", func(ctx context.Context) error {
		pods, err := readyPods(ctx, client, "app=daemons")
		if err == nil && !slices.ContainsFunc(pods, onNode("n4")) {
			err = fmt.Errorf("it is not among %d", len(pods))
		}
		return err
	})
	if err := fault.heal(t, c, leader); err != nil {
		t.Fatal(err)
	}
	c.waitFor(t, client, "app=daemons", 4)

	for _, workload := range []string{"deployment/movable", "statefulset/stuck"} {
		c.kubectl(t, via, "scale", workload, "--replicas=1")
	}
	for _, app := range []string{"movable", "stuck"} {
		for pod, on := range c.waitFor(t, client, "app="+app, 1) {
			if on != "n4" {
				t.Fatalf("%s is on %s, and should rather be on n4", pod, on)
			}
		}
	}
	leader = c.agreedLeader(t)
	if via.Name == leader.Name {
		via = c.others(leader)[0]
		client = c.client(t, via)
	}
	c.wipe(t, n4)
	if err := fault.strike(t, c, leader); err != nil {
		t.Fatal(err)
	}
	c.anotherLeads(t, via, leader)
	c.eventually(t, "what ran on n4 to run elsewhere", func(ctx context.Context) error {
		pods, err := readyPods(ctx, client, "app=movable")
		if err == nil && (len(pods) != 1 || slices.ContainsFunc(pods, onNode("n4"))) {
			err = fmt.Errorf("%d pods are ready", len(pods))
		}
		return err
	})
	if err := fault.heal(t, c, leader); err != nil {
		t.Fatal(err)
	}
	moved := c.outOfService(t, n4, fault)
	c.command(t, via, "members", "remove", "n4")
	c.waitFor(t, client, "app=daemons", 3)
	if pod, err := client.CoreV1().Pods("default").Get(t.Context(), "stuck-0", metav1.GetOptions{}); err != nil || pod.UID != moved {
		t.Errorf("the StatefulSet's pod did not stay as it was, once the old leader was back: %v", err)
	}
	for app, workload := range map[string]string{"movable": "deployment/movable", "stuck": "statefulset/stuck"} {
		c.kubectl(t, via, "scale", workload, "--replicas=0")
		c.waitFor(t, client, "app="+app, 0)
	}
}

// outOfService says of a dead node that it is off, with the leader struck at the same moment: the
// StatefulSet's pod has waited there until now, and whoever leads next has it take up another place.
func (c *cluster) outOfService(t *testing.T, dead *lab.Host, fault nemesis) (moved types.UID) {
	leader := c.leaderOfAllBut(t, dead)
	via := c.others(leader)[0]
	client := c.client(t, via)
	var waits types.UID
	c.eventually(t, "the StatefulSet's pod to wait on "+dead.Name, func(ctx context.Context) error {
		pod, err := client.CoreV1().Pods("default").Get(ctx, "stuck-0", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if waits = pod.UID; pod.DeletionTimestamp == nil || pod.Spec.NodeName != dead.Name {
			return fmt.Errorf("it is on %s, deleted at %v", pod.Spec.NodeName, pod.DeletionTimestamp)
		}
		return nil
	})
	c.kubectl(t, via, "taint", "node", dead.Name, corev1.TaintNodeOutOfService+"=nodeshutdown:NoExecute")
	if err := fault.strike(t, c, leader); err != nil {
		t.Fatal(err)
	}
	c.anotherLeads(t, via, leader)
	c.eventually(t, "the StatefulSet's pod to be let go", func(ctx context.Context) error {
		pod, err := client.CoreV1().Pods("default").Get(ctx, "stuck-0", metav1.GetOptions{})
		if err == nil && pod.UID == waits {
			return errors.New("it waits still")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	if err := fault.heal(t, c, leader); err != nil {
		t.Fatal(err)
	}
	c.leaderOfAllBut(t, dead)
	c.eventually(t, "it to run elsewhere", func(ctx context.Context) error {
		pod, err := client.CoreV1().Pods("default").Get(ctx, "stuck-0", metav1.GetOptions{})
		if err == nil && (!isReady(pod) || pod.Spec.NodeName == dead.Name) {
			return fmt.Errorf("it is %s on %s", pod.Status.Phase, pod.Spec.NodeName)
		}
		if err == nil {
			moved = pod.UID
		}
		return err
	})
	return moved
}

// leaderOfAllBut waits until every host but one that is dead knows the same leader.
func (c *cluster) leaderOfAllBut(t *testing.T, dead *lab.Host) (leader *lab.Host) {
	t.Helper()
	c.eventually(t, "all but "+dead.Name+" to know one leader", func(ctx context.Context) error {
		known := map[string]bool{}
		for _, s := range c.Status(ctx) {
			if s.Host != dead.Name {
				known[s.Leader] = true
			}
		}
		for _, h := range c.Hosts() {
			if len(known) == 1 && known[h.Name] {
				leader = h
				return nil
			}
		}
		return fmt.Errorf("they know %v", known)
	})
	return leader
}
