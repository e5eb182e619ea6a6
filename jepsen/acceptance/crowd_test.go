package acceptance

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/jepsen/lab"
)

// crowdPods is more than a node takes when it is not told to.
const crowdPods = 200

// TestManyPodsOutliveTheirNode: a node runs as many pods as it is told that it may, and
// whatever of it is killed, the same processes go on, all known again, and more can come. How long it takes is the bench's to say.
func TestManyPodsOutliveTheirNode(t *testing.T) {
	if !long() {
		t.Skip("needs KONTIKI_LONG=1: it fills the machine with 200 pods")
	}
	c := newLab(t, lab.Config{Name: "crowd"}, 1)
	options := []string{"--max-pods", fmt.Sprint(crowdPods + 1)}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var progress strings.Builder
	if err := c.Up(ctx, &progress, options...); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	c.busybox(t)
	host := c.Hosts()[0]
	k := &killer{c: c, lab: "crowd", host: host, client: c.client(t, host), random: rand.New(rand.NewPCG(1, 0))}
	for i := range crowdPods {
		k.create(t, fmt.Sprint("crowd-", i), corev1.RestartPolicyAlways, "exec sleep 1000000")
	}
	before := k.identities(t, crowdPods)
	for _, what := range []string{"node", "shim", "node and shim"} {
		pid, err := k.shimPid()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(what, "shim") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		if strings.Contains(what, "node") {
			if err := host.Signal(t.Context(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := host.Start(options...); err != nil {
				t.Fatal(err)
			}
		}
		// One more comes and goes: the agent is whole, and has seen what became of the others.
		k.create(t, "late", corev1.RestartPolicyNever, "exit 5")
		k.wait(t, "late", "to end", func(p *corev1.Pod) bool {
			s := p.Status.ContainerStatuses
			return len(s) == 1 && s[0].State.Terminated != nil && s[0].State.Terminated.ExitCode == 5
		})
		k.delete(t, "late", 1)
		k.gone(t, crowdPods)
		after := k.identities(t, crowdPods)
		for _, name := range slices.Sorted(maps.Keys(before)) {
			if after[name] != before[name] {
				t.Errorf("%s killed: pod %s was %s and is %s", what, name, before[name], after[name])
			}
		}
		if t.Failed() {
			return
		}
	}
	if err := k.client.CoreV1().Pods("default").DeleteCollection(t.Context(), metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	k.gone(t, 0)
	k.clean(t)
}

// identities waits until n pods are ready, and tells the container of each, since when it runs and how often it began.
func (k *killer) identities(t *testing.T, n int) map[string]string {
	t.Helper()
	var all map[string]string
	k.c.eventually(t, fmt.Sprint(n, " pods to be ready"), func(ctx context.Context) error {
		all = map[string]string{}
		list, err := k.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			p := &list.Items[i]
			if s := p.Status.ContainerStatuses; len(s) == 1 && s[0].Ready && s[0].State.Running != nil {
				all[p.Name] = fmt.Sprintf("%s since %s, begun anew %d times", s[0].ContainerID, s[0].State.Running.StartedAt.UTC(), s[0].RestartCount)
			}
		}
		if len(all) != n {
			return fmt.Errorf("%d are", len(all))
		}
		return nil
	})
	return all
}

// gone waits until n pods are left.
func (k *killer) gone(t *testing.T, n int) {
	t.Helper()
	k.c.eventually(t, fmt.Sprint(n, " pods to be left"), func(ctx context.Context) error {
		list, err := k.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) != n {
			return fmt.Errorf("%d are there", len(list.Items))
		}
		return err
	})
}
