package acceptance

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// profiled gives the scheduler a profile that fills one node before it takes the next,
// tries to give it one that it cannot understand, and takes the profile away again.
func (c *cluster) profiled(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	n1 := c.Hosts()[0]
	configs := client.CoreV1().ConfigMaps("kube-system")
	c.kubectl(t, n1, "apply", "-f", filepath.Join("testdata", "profiles.yaml"))
	packed := map[string]bool{}
	for _, node := range c.waitFor(t, client, "app=packed", 4) {
		packed[node] = true
	}
	if len(packed) != 1 {
		t.Errorf("the profile MostAllocated has put pods on %v", packed)
	}

	c.kubectl(t, n1, "-n", "kube-system", "patch", "configmap/kontiki-scheduler", "--patch", `{"data":{"config.yaml":"apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles: [{schedulerName: packed, plugins: {filter: {disabled: [{name: NodePorts}]}}}]\n"}}`)
	c.eventually(t, "an event that says what is not understood", func(ctx context.Context) error {
		events, err := client.CoreV1().Events("kube-system").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=kontiki-scheduler,reason=InvalidConfiguration"})
		if err == nil && len(events.Items) == 0 {
			err = fmt.Errorf("there is none")
		}
		return err
	})
	c.kubectl(t, n1, "scale", "deployment/packed", "--replicas=5")
	c.waitFor(t, client, "app=packed", 5) // by the profile from before

	if err := configs.Delete(t.Context(), "kontiki-scheduler", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, n1, "scale", "deployment/plain", "--replicas=3")
	c.waitFor(t, client, "app=plain", 3)
	// A pod of the profile waits from now on. When it was made does not tell that it was
	// looked at; that a later one of another profile runs does.
	c.kubectl(t, n1, "scale", "deployment/packed", "--replicas=6")
	c.eventually(t, "a sixth pod", func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=packed"})
		if err == nil && len(pods.Items) != 6 {
			err = fmt.Errorf("there are %d", len(pods.Items))
		}
		return err
	})
	c.kubectl(t, n1, "scale", "deployment/plain", "--replicas=4")
	c.waitFor(t, client, "app=plain", 4)
	if ready, err := readyPods(t.Context(), client, "app=packed"); err != nil || len(ready) != 5 {
		t.Errorf("%d pods of a profile that is gone are ready, want 5 (%v)", len(ready), err)
	}
	c.kubectl(t, n1, "delete", "deployment/packed", "deployment/plain", "--now")
}
