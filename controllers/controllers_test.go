package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	scalefake "k8s.io/client-go/scale/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"kontiki/controllers/nodelifecycle"
	"kontiki/controllers/scaletarget"
)

// ring holds every node for alive but those that are said to be dead.
type ring struct {
	mu      sync.Mutex // protects dead
	dead    map[string]bool
	changed chan struct{}
}

func newRing() *ring { return &ring{dead: map[string]bool{}, changed: make(chan struct{}, 1)} }

func (r *ring) Member(node string) (nodelifecycle.Member, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead[node] {
		return nodelifecycle.Member{State: nodelifecycle.Dead}, true
	}
	return nodelifecycle.Member{State: nodelifecycle.Alive}, true
}

func (r *ring) Watch() (<-chan struct{}, func()) { return r.changed, func() {} }

func (r *ring) set(node string, dead bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dead[node] = dead
	r.changed <- struct{}{}
}

// noKinds knows no kinds, and never will.
type noKinds struct{ meta.RESTMapper }

func (noKinds) Reset() {}

// tracker gives client-go's object tracker what controllers rely on and it lacks:
// one order of resourceVersions, and conflicts. Calls come one at a time, under
// the fake's lock.
type tracker struct {
	clienttesting.ObjectTracker
	revision int
}

func (tr *tracker) stamp(obj runtime.Object) {
	tr.revision++
	obj.(metav1.Object).SetResourceVersion(strconv.Itoa(tr.revision))
}

func (tr *tracker) Create(gvr schema.GroupVersionResource, obj runtime.Object, ns string, opts ...metav1.CreateOptions) error {
	tr.stamp(obj)
	return tr.ObjectTracker.Create(gvr, obj, ns, opts...)
}

func (tr *tracker) Update(gvr schema.GroupVersionResource, obj runtime.Object, ns string, opts ...metav1.UpdateOptions) error {
	if err := tr.check(gvr, obj, ns); err != nil {
		return err
	}
	return tr.ObjectTracker.Update(gvr, obj, ns, opts...)
}

func (tr *tracker) Patch(gvr schema.GroupVersionResource, obj runtime.Object, ns string, opts ...metav1.PatchOptions) error {
	if err := tr.check(gvr, obj, ns); err != nil {
		return err
	}
	return tr.ObjectTracker.Patch(gvr, obj, ns, opts...)
}

func (tr *tracker) check(gvr schema.GroupVersionResource, obj runtime.Object, ns string) error {
	name := obj.(metav1.Object).GetName()
	current, err := tr.Get(gvr, ns, name)
	if err != nil {
		return err
	}
	if current.(metav1.Object).GetResourceVersion() != obj.(metav1.Object).GetResourceVersion() {
		return apierrors.NewConflict(gvr.GroupResource(), name, errors.New("the object has been modified"))
	}
	tr.stamp(obj)
	return nil
}

// cluster is a fake API that names and binds pods and makes them run, as the
// real one and its agents do.
type cluster struct {
	*fake.Clientset
	t       *testing.T
	ring    *ring
	tracker *tracker
}

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	c := &cluster{Clientset: fake.NewClientset(objects...), t: t, ring: newRing()}
	c.tracker = &tracker{c.Clientset.Tracker(), 1000}
	c.Resources = servedResources()
	c.PrependReactor("*", "*", clienttesting.ObjectReaction(c.tracker))
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

// servedResources is what discovery tells: all that some controller needs.
func servedResources() []*metav1.APIResourceList {
	var lists []*metav1.APIResourceList
	for _, needed := range assemble(Config{}, nil, nil) {
		for _, r := range needed.needs {
			lists = append(lists, &metav1.APIResourceList{GroupVersion: r.GroupVersion().String()})
		}
	}
	for _, list := range lists {
		for _, needed := range assemble(Config{}, nil, nil) {
			for _, r := range needed.needs {
				if r.GroupVersion().String() == list.GroupVersion {
					list.APIResources = append(list.APIResources, metav1.APIResource{Name: r.Resource})
				}
			}
		}
	}
	return lists
}

func (c *cluster) bind(b *corev1.Binding) error {
	obj, err := c.tracker.Get(corev1.SchemeGroupVersion.WithResource("pods"), b.Namespace, b.Name)
	if err != nil {
		return err
	}
	pod := obj.(*corev1.Pod).DeepCopy()
	pod.Spec.NodeName = b.Target.Name
	pod.Status.Phase = corev1.PodRunning
	pod.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.42.0.%d", rand.IntnRange(1, 250))}}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	return c.tracker.Update(corev1.SchemeGroupVersion.WithResource("pods"), pod, b.Namespace)
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
func (c *cluster) start() { c.lead(c) }

// lead is start with a client of one's own.
func (c *cluster) lead(client kubernetes.Interface) {
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() {
		stopped <- Run(ctx, Config{
			Client: client, SchedulerClient: client, Metadata: metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme()),
			Targets:     &scaletarget.Targets{Scales: &scalefake.FakeScaleClient{}, Mapper: noKinds{meta.MultiRESTMapper{}}},
			ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), NodePrefixLen: 24,
			Ring:   c.ring,
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

func (c *cluster) deployment(name string) *appsv1.Deployment {
	d, err := c.AppsV1().Deployments("default").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

// update changes a Deployment as a user does, and raises its generation.
func (c *cluster) update(name string, change func(*appsv1.Deployment)) {
	c.t.Helper()
	for {
		d := c.deployment(name)
		change(d)
		d.Generation++
		_, err := c.AppsV1().Deployments("default").Update(context.Background(), d, metav1.UpdateOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			c.t.Fatal(err)
		}
	}
}

// rolledOut says whether all n pods run the image and the Deployment says so.
func (c *cluster) rolledOut(name, image, revision string, n int32) func() bool {
	return func() bool {
		d := c.deployment(name)
		if d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas != n || d.Status.AvailableReplicas != n || d.Status.Replicas != n {
			return false
		}
		for _, pod := range c.pods() {
			if pod.Spec.Containers[0].Image != image {
				return false
			}
		}
		return d.Annotations["deployment.kubernetes.io/revision"] == revision && len(c.pods()) == int(n)
	}
}

func TestDeploymentRollsOutAndBack(t *testing.T) {
	c := newCluster(t, node("a"), node("b"), node("c"))
	c.start()
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas:                ptr.To[int32](6),
			Selector:                &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template:                template("web"),
			ProgressDeadlineSeconds: ptr.To[int32](600),
		},
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "s"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, ClusterIP: "10.43.0.7", Ports: []corev1.ServicePort{{Port: 80}}},
	}
	ctx := context.Background()
	if _, err := c.CoreV1().Services("default").Create(ctx, service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AppsV1().Deployments("default").Create(ctx, d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("revision 1 rolled out", c.rolledOut("web", "example/web", "1", 6))
	c.update("web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "example/web:2" })
	c.eventually("revision 2 rolled out", c.rolledOut("web", "example/web:2", "2", 6))
	c.update("web", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](9) })
	c.eventually("scaled to nine", c.rolledOut("web", "example/web:2", "2", 9))
	c.update("web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "example/web" })
	c.eventually("rolled back as revision 3", c.rolledOut("web", "example/web", "3", 9))
	c.eventually("nine ready endpoints in one slice", func() bool {
		list, err := c.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 || len(list.Items[0].Endpoints) != 9 {
			return false
		}
		for _, e := range list.Items[0].Endpoints {
			if !*e.Conditions.Ready {
				return false
			}
		}
		return true
	})
	sets, err := c.AppsV1().ReplicaSets("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(sets.Items) != 2 {
		t.Fatalf("want two replica sets, have %d (%v)", len(sets.Items), err)
	}
	for _, condition := range c.deployment("web").Status.Conditions {
		if condition.Type == appsv1.DeploymentProgressing && condition.Reason != "NewReplicaSetAvailable" {
			t.Errorf("Progressing: %+v", condition)
		}
	}
}

func (c *cluster) node(name string) *corev1.Node {
	n, err := c.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

func TestPodsOfADeadNodeAreReplacedAndTheNodeComesBack(t *testing.T) {
	c := newCluster(t, node("a"), node("b"), node("c"))
	c.start()
	impatient := template("web")
	impatient.Spec.Tolerations = []corev1.Toleration{{
		Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](0),
	}}
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To[int32](3), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: impatient,
		},
	}
	if _, err := c.AppsV1().ReplicaSets("default").Create(context.Background(), rs, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	on := func(node string) (n int) {
		for _, pod := range c.pods() {
			if pod.Spec.NodeName == node {
				n++
			}
		}
		return n
	}
	c.eventually("a pod on each node", func() bool { return on("a") == 1 && on("b") == 1 && on("c") == 1 })
	c.ring.set("b", true)
	c.eventually("the dead node's pod is replaced on others", func() bool { return on("b") == 0 && on("a")+on("c") == 3 })
	c.eventually("the dead node is Unknown and tainted", func() bool {
		n := c.node("b")
		return n.Status.Conditions[0].Status == corev1.ConditionUnknown && len(n.Spec.Taints) == 2
	})
	c.ring.set("b", false)
	c.eventually("the node is ready again and without taints", func() bool {
		n := c.node("b")
		return n.Status.Conditions[0].Status == corev1.ConditionTrue && len(n.Spec.Taints) == 0
	})
}

func TestAnUnschedulablePodWaitsForRoomAndSaysWhy(t *testing.T) {
	c := newCluster(t, node("a"))
	c.start()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "big"}, Spec: template("web").Spec}
	pod.Spec.NodeSelector = map[string]string{"size": "big"}
	if _, err := c.CoreV1().Pods("default").Create(context.Background(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const why = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
	c.eventually("condition PodScheduled says why", func() bool {
		pods := c.pods()
		return len(pods) == 1 && len(pods[0].Status.Conditions) == 1 && pods[0].Status.Conditions[0].Message == why
	})
	c.eventually("an event FailedScheduling says why", func() bool {
		list, err := c.EventsV1().Events("default").List(context.Background(), metav1.ListOptions{})
		return err == nil && slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool {
			return e.Reason == "FailedScheduling" && e.Note == why && e.Action == "Scheduling" && e.ReportingController == corev1.DefaultSchedulerName
		})
	})
	big := node("b")
	big.Labels["size"] = "big"
	if _, err := c.CoreV1().Nodes().Create(context.Background(), big, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("bound to the node that came", func() bool { return c.pods()[0].Spec.NodeName == "b" })
}

func TestAControllerWhoseKindIsNotServedIsLeftOut(t *testing.T) {
	c := newCluster(t, node("a"))
	c.Resources = nil
	c.start()
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template("web"),
		},
	}
	if _, err := c.AppsV1().ReplicaSets("default").Create(context.Background(), rs, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("a pod by a controller that needs no more than there is", func() bool { return len(c.pods()) == 1 })
}
