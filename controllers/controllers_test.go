package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"kontiki/controllers/nodelifecycle"
)

// ring holds every node for alive.
type ring struct {
	members map[string]nodelifecycle.Member
}

func (r ring) Health() map[string]nodelifecycle.Member { return r.members }
func (r ring) Watch() (<-chan struct{}, func())        { return make(chan struct{}), func() {} }

// cluster is a fake API that names and binds pods and makes them run, as the
// real one and its agents do.
type cluster struct {
	*fake.Clientset
	t *testing.T
}

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	c := &cluster{fake.NewClientset(objects...), t}
	c.PrependReactor("create", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		create := action.(clienttesting.CreateAction)
		if create.GetSubresource() == "binding" {
			binding := create.GetObject().(*corev1.Binding)
			return true, binding, c.bind(binding)
		}
		if o, ok := create.GetObject().(metav1.Object); ok {
			if o.GetName() == "" {
				o.SetName(o.GetGenerateName() + rand.String(5))
			}
			o.SetUID(types.UID(rand.String(12)))
			o.SetCreationTimestamp(metav1.Now())
		}
		return false, nil, nil
	})
	return c
}

func (c *cluster) bind(b *corev1.Binding) error {
	obj, err := c.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), b.Namespace, b.Name)
	if err != nil {
		return err
	}
	pod := obj.(*corev1.Pod).DeepCopy()
	pod.Spec.NodeName = b.Target.Name
	pod.Status.Phase = corev1.PodRunning
	pod.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.42.0.%d", rand.IntnRange(1, 250))}}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	return c.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), pod, b.Namespace)
}

func node(name string) *corev1.Node {
	room := corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("4Gi"), "pods": resource.MustParse("110")}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{
			Allocatable: room,
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

// start runs the controllers and stops them, and waits for that, at the test's end.
func (c *cluster) start() {
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() {
		stopped <- Run(ctx, Config{
			Client: c, SchedulerClient: c, Metadata: metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme()),
			ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), NodePrefixLen: 24,
			Ring:   ring{},
			Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
	}()
	c.t.Cleanup(func() {
		cancel()
		select {
		case err := <-stopped:
			if err != nil {
				c.t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			c.t.Error("controllers did not stop within 20 s")
		}
	})
}

// eventually waits for a condition of the fake API.
func (c *cluster) eventually(what string, met func() bool) {
	c.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-tick.C:
		case <-deadline:
			c.t.Fatalf("waited 20 s for: %s", what)
		}
	}
}

func (c *cluster) pods() []corev1.Pod {
	list, err := c.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return list.Items
}

func template(app string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName,
			Containers:    []corev1.Container{{Name: "c", Image: "example/" + app}},
		},
	}
}

func TestReplicaSetIsCreatedAndSpread(t *testing.T) {
	c := newCluster(t, node("a"), node("b"), node("c"))
	c.start()
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To[int32](6),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: template("web"),
		},
	}
	if _, err := c.AppsV1().ReplicaSets("default").Create(context.Background(), rs, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("six pods, two on each node", func() bool {
		on := map[string]int{}
		for _, pod := range c.pods() {
			on[pod.Spec.NodeName]++
		}
		return on["a"] == 2 && on["b"] == 2 && on["c"] == 2
	})
	c.eventually("status shows six ready", func() bool {
		got, err := c.AppsV1().ReplicaSets("default").Get(context.Background(), "web", metav1.GetOptions{})
		return err == nil && got.Status.ReadyReplicas == 6 && got.Status.AvailableReplicas == 6
	})
	c.eventually("three different pod subnets", func() bool {
		list, err := c.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
		seen := map[string]bool{}
		for _, n := range list.Items {
			seen[n.Spec.PodCIDR] = true
		}
		return err == nil && len(seen) == 3 && !seen[""]
	})
}
