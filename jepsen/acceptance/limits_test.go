package acceptance

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// TestRoomAndLimits: who gets room when there is too little, what a quota counts, what
// stands beside Services, accounts and roles, and that a namespace goes with all that is
// in it, though the leader is killed meanwhile.
func TestRoomAndLimits(t *testing.T) {
	c := newCluster(t, "limits", 3)
	n1 := c.Hosts()[0]
	c.onEvery(t, "image", "load", filepath.Join(filepath.Dir(c.bin), "examples", "web.tar"))
	client := c.client(t, n1)
	c.kubectl(t, n1, "apply", "-f", filepath.Join("testdata", "limits.yaml"))

	t.Run("an important pod gets the room of a less important one", func(t *testing.T) { c.preempts(t, client) })
	t.Run("a quota counts what there is", func(t *testing.T) { c.quotaCounts(t, client) })
	t.Run("Endpoints stand beside Services, and slices beside Endpoints kept by hand", func(t *testing.T) { c.endpointsStand(t, client) })
	t.Run("a token is put into its Secret, a role gets the rules of others", func(t *testing.T) { c.accountsStand(t, client) })
	t.Run("the scheduler's profiles are taken from a ConfigMap", func(t *testing.T) { c.profiled(t, client) })
	t.Run("a namespace goes with all that is in it", func(t *testing.T) { c.namespaceGoes(t) })
}

// preempts fills every node with pods that ask for more than half of it, so that no
// other fits, and then wants one that is more important.
func (c *cluster) preempts(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	n1 := c.Hosts()[0]
	node, err := client.CoreV1().Nodes().Get(t.Context(), n1.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	share := fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"web","resources":{"requests":{"cpu":"%dm"}}}]}}}}`, node.Status.Allocatable.Cpu().MilliValue()*6/10)
	c.kubectl(t, n1, "patch", "deployment/filler", "--patch", share)
	c.kubectl(t, n1, "scale", "deployment/filler", "--replicas=3")
	c.waitFor(t, client, "app=filler", 3)
	c.kubectl(t, n1, "patch", "deployment/urgent", "--patch", share)
	c.kubectl(t, n1, "scale", "deployment/urgent", "--replicas=1")
	c.waitFor(t, client, "app=urgent", 1)
	c.eventually(t, "a filler that says why it waits", func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=filler"})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			for _, condition := range pod.Status.Conditions {
				if condition.Type == corev1.PodScheduled && condition.Message == "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod." {
					return nil
				}
			}
		}
		return fmt.Errorf("%d fillers, none of which says it", len(pods.Items))
	})
	if events := c.kubectl(t, n1, "get", "events", "--field-selector=reason=Preempted"); !strings.Contains(events, "Preempted by pod") {
		t.Errorf("events: %s", events)
	}
	c.kubectl(t, n1, "delete", "deployment/filler", "deployment/urgent", "--now")
}

func (c *cluster) quotaCounts(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	n1 := c.Hosts()[0]
	uses := func(pods, services, maps string) {
		t.Helper()
		c.eventually(t, fmt.Sprintf("the quota to count %s pods, %s Services, %s ConfigMaps", pods, services, maps), func(ctx context.Context) error {
			quota, err := client.CoreV1().ResourceQuotas("limited").Get(ctx, "all", metav1.GetOptions{})
			if err != nil {
				return err
			}
			p, s, m := quota.Status.Used["pods"], quota.Status.Used["services"], quota.Status.Used["count/configmaps"]
			if p.String() != pods || s.String() != services || m.String() != maps {
				return fmt.Errorf("it counts %v", quota.Status.Used)
			}
			return nil
		})
	}
	uses("0", "1", "2") // kube-root-ca.crt is one
	c.kubectl(t, n1, "-n", "limited", "create", "configmap", "more")
	uses("0", "1", "3")
	c.kubectl(t, n1, "-n", "limited", "delete", "service/web", "configmap/more")
	uses("0", "0", "2")
}

func (c *cluster) endpointsStand(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	c.eventually(t, "Endpoints of a Service with a pod", func(ctx context.Context) error {
		out := c.kubectl(t, c.Hosts()[0], "get", "endpoints", "web", "-o", "jsonpath={.subsets[*].addresses[*].targetRef.name}")
		if !strings.HasPrefix(out, "web-") {
			return fmt.Errorf("its addresses are %q", out)
		}
		return nil
	})
	c.eventually(t, "a slice that mirrors Endpoints kept by hand", func(ctx context.Context) error {
		slices, err := client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=outside"})
		if err != nil {
			return err
		}
		if len(slices.Items) != 1 || len(slices.Items[0].Endpoints) != 1 || slices.Items[0].Endpoints[0].Addresses[0] != "192.0.2.7" {
			return fmt.Errorf("there are %+v", slices.Items)
		}
		return nil
	})
}

func (c *cluster) accountsStand(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	c.eventually(t, "a token in its Secret", func(ctx context.Context) error {
		secret, err := client.CoreV1().Secrets("default").Get(ctx, "robot-token", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(secret.Data["token"]) == 0 || len(secret.Data["ca.crt"]) == 0 || string(secret.Data["namespace"]) != "default" {
			return errors.New("it is not complete")
		}
		return nil
	})
	c.eventually(t, "the rules of the roles that are selected", func(ctx context.Context) error {
		role, err := client.RbacV1().ClusterRoles().Get(ctx, "sum", metav1.GetOptions{})
		if err == nil && (len(role.Rules) != 1 || role.Rules[0].Resources[0] != "pods") {
			return fmt.Errorf("they are %+v", role.Rules)
		}
		return err
	})
}

// namespaceGoes deletes a namespace that holds a running Deployment among others, and
// kills the leader at once.
func (c *cluster) namespaceGoes(t *testing.T) {
	t.Helper()
	leader := c.leader(t, c.Hosts()[0])
	other := c.Hosts()[0]
	if other.Name == leader.Name {
		other = c.Hosts()[1]
	}
	client := c.client(t, other)
	c.kubectl(t, other, "delete", "namespace", "limited", "--wait=false")
	if err := leader.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	c.eventually(t, "the namespace to be gone", func(ctx context.Context) error {
		ns, err := client.CoreV1().Namespaces().Get(ctx, "limited", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("its status is %+v", ns.Status)
	})
}
