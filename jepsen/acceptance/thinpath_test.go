package acceptance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/jepsen/lab"
)

// TestThinPath is the one path through all rooms: three nodes form a cluster, a
// Deployment runs on all of them, packets cross, and the loss of the leader
// loses nothing.
func TestThinPath(t *testing.T) {
	c := newCluster(t, "thin", 3)
	n1 := c.Hosts()[0]
	c.onEvery(t, "image", "load", filepath.Join(filepath.Dir(c.bin), "examples", "web.tar"))

	applied := time.Now()
	c.kubectl(t, n1, "apply", "-f", example(t, "web/web.yaml"))
	client := c.client(t, n1)
	pods := c.waitPods(t, client, 6)
	t.Logf("kubectl apply to six ready pods: %v", time.Since(applied).Round(10*time.Millisecond))

	t.Run("pods spread over the nodes", func(t *testing.T) {
		perNode := map[string]int{}
		for _, pod := range pods {
			perNode[pod.Spec.NodeName]++
		}
		for _, h := range c.Hosts() {
			if perNode[h.Name] != 2 {
				t.Errorf("%s has %d of six pods, want 2 (all: %v)", h.Name, perNode[h.Name], perNode)
			}
		}
	})
	t.Run("every pod reaches every pod and the Service by name", func(t *testing.T) {
		c.everyPodReaches(t, n1, pods)
	})
	t.Run("the Service balances over all pods", func(t *testing.T) {
		c.serviceBalances(t, n1, pods)
	})
	t.Run("an event tells of the election", func(t *testing.T) {
		out := c.kubectl(t, n1, "get", "events", "--no-headers", "-o", "custom-columns=R:.reason,M:.message")
		if !regexp.MustCompile(`(?m)^LeaderElection +n[123] became leader$`).MatchString(out) {
			t.Errorf("no election among\n%s", out)
		}
	})
	t.Run("status tells of every node's pods, subnet and way", func(t *testing.T) {
		out := c.command(t, n1, "status")
		for _, h := range c.Hosts() {
			if !regexp.MustCompile(`(?m)^` + h.Name + ` .* alive .* Ready .* 2/2 .* 10\.42\.\d+\.0/24 .* (own|yes) `).MatchString(out) {
				t.Errorf("nothing of %s with two pods in\n%s", h.Name, out)
			}
		}
	})
	t.Run("kubectl logs from any node", func(t *testing.T) {
		for _, h := range c.Hosts() {
			if out := c.kubectl(t, h, "logs", pods[0].Name); !strings.Contains(out, "web: listening on") {
				t.Errorf("logs of %s through %s: %q", pods[0].Name, h.Name, out)
			}
		}
	})
	t.Run("scale", func(t *testing.T) {
		c.kubectl(t, c.Hosts()[1], "scale", "deployment/web", "--replicas=9")
		c.waitPods(t, client, 9)
		c.kubectl(t, c.Hosts()[2], "scale", "deployment/web", "--replicas=6")
		pods = c.waitPods(t, client, 6)
	})
	t.Run("a deleted pod is replaced", func(t *testing.T) {
		victim := pods[0]
		c.kubectl(t, n1, "delete", "pod", victim.Name)
		pods = c.waitPods(t, client, 6)
		if slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.UID == victim.UID }) {
			t.Errorf("pod %s is still there", victim.Name)
		}
	})
	t.Run("a container that dies is restarted", func(t *testing.T) {
		c.containerRestarts(t, n1, pods[0])
	})
	t.Run("the leader is killed", func(t *testing.T) { c.leaderKilled(t) })
}

// everyPodReaches has each pod fetch from each pod by address, and from the
// Service by its names.
func (c *cluster) everyPodReaches(t *testing.T, from *lab.Host, pods []corev1.Pod) {
	t.Helper()
	var urls, what []string
	for _, a := range pods {
		targets := []string{"http://web/", "http://web.default/", "http://web.default.svc.cluster.local/"}
		for _, b := range pods {
			targets = append(targets, "http://"+b.Status.PodIP+":8080/")
		}
		for _, target := range targets {
			urls = append(urls, dialFrom(a, target))
			what = append(what, fmt.Sprintf("%s on %s to %s", a.Name, a.Spec.NodeName, target))
		}
	}
	answers, err := c.fetch(t.Context(), from, urls)
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range answers {
		if got.Status != http.StatusOK || !strings.HasPrefix(got.Body, "pod=web-") {
			t.Errorf("%s: status %d, %s", what[i], got.Status, got.Body)
		}
		// A pod's address arrives as it is: nothing between pods translates it.
		if target := urls[i]; strings.Contains(target, "%3A8080") && !strings.Contains(got.Body, "client="+podOf(target)+":") {
			t.Errorf("%s: the other side saw %s", what[i], got.Body)
		}
	}
}

func dialFrom(pod corev1.Pod, target string) string {
	return "http://" + pod.Status.PodIP + ":8080/dial?url=" + url.QueryEscape(target)
}

// podOf is the address of the pod that dials.
func podOf(dial string) string {
	u, err := url.Parse(dial)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// serviceBalances has one pod ask the Service until every pod has answered.
func (c *cluster) serviceBalances(t *testing.T, from *lab.Host, pods []corev1.Pod) {
	t.Helper()
	seen := map[string]bool{}
	c.eventually(t, "every pod to answer for the Service", func(ctx context.Context) error {
		answers, err := c.fetch(ctx, from, slices.Repeat([]string{dialFrom(pods[0], "http://web/")}, 20))
		if err != nil {
			return err
		}
		for _, got := range answers {
			if got.Status != http.StatusOK {
				t.Fatalf("the Service answered %d: %s", got.Status, got.Body)
			}
			name, _, _ := strings.Cut(strings.TrimPrefix(got.Body, "pod="), " ")
			seen[name] = true
		}
		if len(seen) != len(pods) {
			return fmt.Errorf("%d of %d pods have answered", len(seen), len(pods))
		}
		return nil
	})
}

// containerRestarts kills a container's process and expects the same pod to come
// back with a restart counted.
func (c *cluster) containerRestarts(t *testing.T, host *lab.Host, pod corev1.Pod) {
	t.Helper()
	answers, err := c.fetch(t.Context(), host, []string{"http://" + pod.Status.PodIP + ":8080/crash"})
	if err != nil {
		t.Fatal(err)
	}
	if answers[0].Status != 0 {
		t.Fatalf("the container was asked to die and answered %+v", answers[0])
	}
	c.eventually(t, "the container to be restarted", func(ctx context.Context) error {
		got, err := c.client(t, host).CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := got.Status.ContainerStatuses
		if len(s) != 1 || s[0].RestartCount != 1 || s[0].State.Running == nil || !s[0].Ready {
			return fmt.Errorf("its status is %+v", s)
		}
		if last := s[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 3 || last.Reason != "Error" {
			return fmt.Errorf("its last termination is %+v, want exit code 3 for Error", last)
		}
		return nil
	})
}

// leaderKilled kills the leader's node process and expects the others to go on
// as if nothing had been, and the dead one to come back with the same state.
func (c *cluster) leaderKilled(t *testing.T) {
	t.Helper()
	old := c.leader(t, c.Hosts()[0])
	var rest []*lab.Host
	for _, h := range c.Hosts() {
		if h.Name != old.Name {
			rest = append(rest, h)
		}
	}
	if err := old.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	for _, h := range rest {
		// No second try: a change of leaders is seen as latency, not as an error.
		c.kubectl(t, h, "create", "configmap", "through-"+h.Name, "--from-literal=written=yes")
	}
	t.Logf("killed leader %s; a write through each of the others was acknowledged after %v", old.Name, time.Since(killed).Round(10*time.Millisecond))
	var leader *lab.Host
	c.eventually(t, "another leader", func(context.Context) error {
		if leader = c.leader(t, rest[0]); leader.Name == old.Name {
			return errors.New("the dead node is still said to lead")
		}
		return nil
	})
	client := c.client(t, rest[0])
	c.eventually(t, "the dead node to be NotReady", func(ctx context.Context) error {
		node, err := client.CoreV1().Nodes().Get(ctx, old.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, cond := range node.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue {
				return nil
			}
		}
		return errors.New("it is Ready")
	})
	c.kubectl(t, rest[1], "scale", "deployment/web", "--replicas=10")
	c.eventually(t, "the four new pods on the living nodes", func(ctx context.Context) error {
		pods, err := readyPods(ctx, client, "app=web")
		if err != nil {
			return err
		}
		alive := 0
		for _, pod := range pods {
			if pod.Spec.NodeName != old.Name {
				alive++
			}
		}
		if alive < 8 {
			return fmt.Errorf("%d pods are ready there, want 8", alive)
		}
		return nil
	})

	if err := old.Start(); err != nil {
		t.Fatal(err)
	}
	c.sameState(t)
	c.waitPods(t, client, 10)
	c.everyPodReaches(t, rest[0], c.waitPods(t, client, 10))
}

// sameState compares what every node's own replica holds.
func (c *cluster) sameState(t *testing.T) {
	t.Helper()
	c.eventually(t, "all nodes to hold the same state", func(ctx context.Context) error {
		var first string
		for i, h := range c.Hosts() {
			if _, err := h.Pid(); err != nil {
				return err
			}
			// resourceVersion 0 is answered from the node's own replica.
			list, err := c.client(t, h).CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
			if err != nil {
				return err
			}
			var lines []string
			for _, cm := range list.Items {
				lines = append(lines, fmt.Sprintf("%s/%s@%s %v", cm.Namespace, cm.Name, cm.ResourceVersion, cm.Data))
			}
			slices.Sort(lines)
			state := strings.Join(lines, "\n")
			if i == 0 {
				first = state
			}
			if state != first {
				return fmt.Errorf("%s holds\n%s\n%s holds\n%s", c.Hosts()[0].Name, first, h.Name, state)
			}
			if strings.Count(state, "default/through-") != 2 {
				return fmt.Errorf("%s misses an acknowledged write; it holds\n%s", h.Name, state)
			}
		}
		return nil
	})
}
