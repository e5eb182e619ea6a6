package acceptance

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"kontiki/jepsen/lab"
)

// TestControllers walks through what each controller of pods promises, with real
// containers, and once more with the leader killed, and paused, in a rollout.
func TestControllers(t *testing.T) {
	c := newCluster(t, "ctl", 3)
	n1 := c.Hosts()[0]
	c.onEvery(t, "image", "load", filepath.Join(filepath.Dir(c.bin), "examples", "web.tar"))
	c.kubectl(t, n1, "apply", "-f", filepath.Join("testdata", "controllers.yaml"))
	client := c.client(t, n1)

	t.Run("a DaemonSet has a pod on each node", func(t *testing.T) {
		on := map[string]int{}
		for _, pod := range c.waitFor(t, client, "app=agent", 3) {
			on[pod]++
		}
		if len(on) != 3 {
			t.Errorf("pods are on %v", on)
		}
	})
	t.Run("a ReplicationController keeps its size", func(t *testing.T) {
		c.waitFor(t, client, "app=rc", 2)
		c.kubectl(t, n1, "scale", "rc/rc", "--replicas=3")
		c.waitFor(t, client, "app=rc", 3)
	})
	t.Run("Jobs are counted exactly", func(t *testing.T) { c.jobsCounted(t, client) })
	t.Run("a StatefulSet rolls out in order", func(t *testing.T) {
		c.waitFor(t, client, "app=db", 3)
		c.kubectl(t, n1, "rollout", "restart", "statefulset/db")
		c.kubectl(t, n1, "rollout", "status", "statefulset/db", "--timeout=80s")
		if out := c.kubectl(t, n1, "rollout", "history", "statefulset/db"); !strings.Contains(out, "2") {
			t.Errorf("history: %s", out)
		}
		c.kubectl(t, n1, "scale", "statefulset/db", "--replicas=1")
		if on := c.waitFor(t, client, "app=db", 1); on["db-0"] == "" {
			t.Errorf("left is %v, want db-0", on)
		}
	})
	t.Run("a rollout goes on when the leader is killed", func(t *testing.T) {
		c.kubectl(t, n1, "scale", "statefulset/db", "--replicas=3")
		c.rollOut(t, n1, "daemonset/agent", "statefulset/db")
		c.leaderKilledInRollout(t)
	})
	t.Run("a leader that was paused in a rollout does no harm when it goes on", func(t *testing.T) {
		c.leaderPausedInRollout(t)
	})
}

// rollOut gives each workload a pod template that it has not had. "kubectl rollout
// restart" refuses to do so twice within a second: its mark counts seconds.
func (c *cluster) rollOut(t *testing.T, host *lab.Host, workloads ...string) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"rolled-out":%q}}}}}`, time.Now().Format(time.RFC3339Nano))
	for _, workload := range workloads {
		c.kubectl(t, host, "patch", workload, "--patch", patch)
	}
}

// waitFor waits until exactly n pods with the label are there, all ready, and answers
// their nodes by their names.
func (c *cluster) waitFor(t *testing.T, client kubernetes.Interface, selector string, n int) map[string]string {
	t.Helper()
	var nodes map[string]string
	c.eventually(t, fmt.Sprintf("%d ready pods with %s", n, selector), func(ctx context.Context) error {
		all, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return err
		}
		ready, err := readyPods(ctx, client, selector)
		if err != nil {
			return err
		}
		if len(ready) != n || len(all.Items) != n {
			return fmt.Errorf("%d pods, %d of them ready", len(all.Items), len(ready))
		}
		nodes = map[string]string{}
		for _, pod := range ready {
			nodes[pod.Name] = pod.Spec.NodeName
		}
		return nil
	})
	return nodes
}

func (c *cluster) jobsCounted(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	ended := func(name string, as batchv1.JobConditionType) (job *batchv1.Job) {
		c.eventually(t, fmt.Sprintf("Job %s to be %s", name, as), func(ctx context.Context) (err error) {
			if job, err = client.BatchV1().Jobs("default").Get(ctx, name, metav1.GetOptions{}); err != nil {
				return err
			}
			for _, condition := range job.Status.Conditions {
				if condition.Type == as && condition.Status == "True" {
					return nil
				}
			}
			return fmt.Errorf("its status is %+v", job.Status)
		})
		return job
	}
	if s := ended("count", batchv1.JobComplete).Status; s.Succeeded != 5 || s.Failed != 0 || s.CompletedIndexes != "0-4" {
		t.Errorf("count: %+v", s)
	}
	if s := ended("fails", batchv1.JobFailed).Status; s.Succeeded != 0 || s.Failed != 1 {
		t.Errorf("fails: %+v", s)
	}
	c.eventually(t, "the Job passing to be removed after its time", func(ctx context.Context) error {
		_, err := client.BatchV1().Jobs("default").Get(ctx, "passing", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is there"))
	})
}

// leaderKilledInRollout kills the leader, starts it again, and expects the rollouts
// to end as if nothing had been.
func (c *cluster) leaderKilledInRollout(t *testing.T) {
	t.Helper()
	leader := c.leader(t, c.Hosts()[0])
	if err := leader.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	for _, h := range c.Hosts() {
		if h.Name == leader.Name {
			continue
		}
		c.kubectl(t, h, "rollout", "status", "statefulset/db", "--timeout=80s")
		c.kubectl(t, h, "rollout", "status", "daemonset/agent", "--timeout=80s")
		return
	}
}

// leaderPausedInRollout stops the leader in its tracks in the middle of rollouts,
// lets another leader end them, and resumes the old one: its controllers still hold
// plans of a term that is over. The rollouts must end as the last change wants, and no
// Job be counted anew.
func (c *cluster) leaderPausedInRollout(t *testing.T) {
	t.Helper()
	old := c.leader(t, c.Hosts()[0])
	var other *lab.Host
	for _, h := range c.Hosts() {
		if h.Name != old.Name {
			other = h
		}
	}
	c.rollOut(t, other, "daemonset/agent", "statefulset/db")
	if err := old.Signal(t.Context(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.eventually(t, "another leader", func(context.Context) error {
		if now := c.leader(t, other); now.Name == old.Name {
			return errors.New("the paused node is still said to lead")
		}
		return nil
	})
	client := c.client(t, other)
	// The paused node's own pods cannot be stopped, so the rollouts wait at them. A
	// second change makes sure that what the old leader planned is out of date.
	c.rollOut(t, other, "daemonset/agent", "statefulset/db")
	if err := old.Signal(t.Context(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, other, "rollout", "status", "statefulset/db", "--timeout=80s")
	c.kubectl(t, other, "rollout", "status", "daemonset/agent", "--timeout=80s")
	db, agent := c.waitFor(t, client, "app=db", 3), c.waitFor(t, client, "app=agent", 3)
	if len(db) != 3 || len(agent) != 3 {
		t.Errorf("left are %v and %v", db, agent)
	}
	for _, name := range []string{"count", "fails"} {
		job, err := client.BatchV1().Jobs("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || job.Status.Succeeded+job.Status.Failed != map[string]int32{"count": 5, "fails": 1}[name] {
			t.Errorf("Job %s: %+v (%v)", name, job.Status, err)
		}
	}
}
