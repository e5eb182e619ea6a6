package apiserver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"kontiki/raftstore/raftstoretest"
)

func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func onNode(p *corev1.Pod) { p.Spec.NodeName = "a" }

func createPod(t *testing.T, c kubernetes.Interface, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	got, err := c.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestPodDefaults(t *testing.T) {
	c := clientOf(t, startServer(t, raftstoretest.New(t)), admin)
	defaultNamespace(t, c)
	p := createPod(t, c, pod("a", func(p *corev1.Pod) {
		p.Spec.Containers[0].Image = "web"
		p.Status.Phase = corev1.PodRunning // the creator has no say in this
	}))
	got := []any{p.Spec.RestartPolicy, p.Spec.DNSPolicy, *p.Spec.TerminationGracePeriodSeconds, p.Spec.SchedulerName,
		*p.Spec.EnableServiceLinks, p.Spec.Containers[0].ImagePullPolicy, p.Status.Phase, p.Status.QOSClass, p.Generation, len(p.Spec.Tolerations)}
	want := []any{corev1.RestartPolicyAlways, corev1.DNSClusterFirst, int64(30), "default-scheduler",
		true, corev1.PullAlways, corev1.PodPending, corev1.PodQOSBestEffort, int64(1), 2}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("default %d is %v, want %v", i, got[i], want[i])
		}
	}
}

func TestPodStatusIsApart(t *testing.T) {
	c := clientOf(t, startServer(t, raftstoretest.New(t)), admin)
	defaultNamespace(t, c)
	pods := c.CoreV1().Pods("default")
	p := createPod(t, c, pod("a"))
	p.Status.Phase = corev1.PodRunning
	p.Spec.Containers[0].Image = "web:2"
	got, err := pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{})
	if err != nil || got.Status.Phase != corev1.PodRunning || got.Spec.Containers[0].Image != "web:1" || got.Generation != 1 {
		t.Fatalf("%v %v", got, err)
	}
	got.Status.Phase = corev1.PodFailed
	got.Spec.Containers[0].Image = "web:2"
	if got, err = pods.Update(t.Context(), got, metav1.UpdateOptions{}); err != nil || got.Status.Phase != corev1.PodRunning || got.Generation != 2 {
		t.Fatalf("%v %v", got, err)
	}
	got.Spec.Hostname = "other"
	if _, err := pods.Update(t.Context(), got, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("change of a fixed field: %v", err)
	}
	patch := []byte(`{"status":{"podIPs":[{"ip":"10.42.0.9"}]}}`)
	if got, err = pods.Patch(t.Context(), "a", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil || got.Status.PodIP != "10.42.0.9" {
		t.Errorf("podIP follows podIPs: %v %v", got.Status, err)
	}
}

func TestGracefulDeletion(t *testing.T) {
	c := clientOf(t, startServer(t, raftstoretest.New(t)), admin)
	defaultNamespace(t, c)
	pods := c.CoreV1().Pods("default")
	gone := func(name string) {
		t.Helper()
		if _, err := pods.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	createPod(t, c, pod("free"))
	if err := pods.Delete(t.Context(), "free", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone("free")

	createPod(t, c, pod("bound", onNode))
	if err := pods.Delete(t.Context(), "bound", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := pods.Get(t.Context(), "bound", metav1.GetOptions{})
	if err != nil || p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 30 {
		t.Fatalf("%v %v", p, err)
	}
	// The node's status updates go on meanwhile; then it confirms.
	p.Status.Phase = corev1.PodSucceeded
	p.DeletionTimestamp = nil // no update takes a deletion back
	if p, err = pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil || p.DeletionTimestamp == nil {
		t.Fatalf("%v %v", p, err)
	}
	zero := int64(0)
	confirm := metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &p.UID}}
	if err := pods.Delete(t.Context(), "bound", confirm); err != nil {
		t.Fatal(err)
	}
	gone("bound")
}

type agents struct{ base *url.URL }

func (a agents) Agent(_ context.Context, node string) (*url.URL, http.RoundTripper, error) {
	if node != "a" {
		return nil, nil, errors.New("no such node")
	}
	return a.base, http.DefaultTransport, nil
}

func TestLogs(t *testing.T) {
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.WriteString(w, r.URL.RequestURI()+"\n"); err != nil {
			t.Error(err)
		}
	}))
	defer agent.Close()
	base, err := url.Parse(agent.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := clientOf(t, startServer(t, raftstoretest.New(t), func(cfg *Config) { cfg.Agents = agents{base} }), admin)
	defaultNamespace(t, c)
	createPod(t, c, pod("here", onNode))
	createPod(t, c, pod("away", func(p *corev1.Pod) { p.Spec.NodeName = "b" }))
	createPod(t, c, pod("two", onNode, func(p *corev1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "side", Image: "side:1"})
	}))
	logs := func(name string, o corev1.PodLogOptions) (string, error) {
		stream, err := c.CoreV1().Pods("default").GetLogs(name, &o).Stream(t.Context())
		if err != nil {
			return "", err
		}
		defer stream.Close()
		data, err := io.ReadAll(stream)
		return string(data), err
	}
	tail := int64(5)
	got, err := logs("here", corev1.PodLogOptions{Follow: true, TailLines: &tail})
	if want := "/containerLogs/default/here/web?follow=true&tailLines=5\n"; err != nil || got != want {
		t.Errorf("%q %v, want %q", got, err, want)
	}
	if _, err := logs("away", corev1.PodLogOptions{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("an agent out of reach: %v", err)
	}
	if _, err := logs("two", corev1.PodLogOptions{}); err == nil || err.Error() != "a container name must be specified for pod two, choose one of: [web side]" {
		t.Error(err)
	}
	if _, err := logs("here", corev1.PodLogOptions{Container: "x"}); err == nil || err.Error() != "container x is not valid for pod here" {
		t.Error(err)
	}
}

// TestInformer wants client-go's informers to start (streaming lists with the
// bookmark that ends them) and to see changes.
func TestInformer(t *testing.T) {
	c := clientOf(t, startServer(t, raftstoretest.New(t)), admin)
	defaultNamespace(t, c)
	createPod(t, c, pod("before"))
	shared := informers.NewSharedInformerFactory(c, 0)
	seen := make(chan string, 10)
	informer := shared.Core().V1().Pods().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(o any) { seen <- o.(*corev1.Pod).Name }}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	shared.Start(ctx.Done())
	defer shared.Shutdown()
	defer cancel()
	shared.WaitForCacheSync(ctx.Done())
	createPod(t, c, pod("after"))
	for _, want := range []string{"before", "after"} {
		select {
		case got := <-seen:
			if got != want {
				t.Errorf("saw %s, want %s", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("never saw %s", want)
		}
	}
}

func TestPagesAndFields(t *testing.T) {
	c := clientOf(t, startServer(t, raftstoretest.New(t)), admin)
	defaultNamespace(t, c)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		createPod(t, c, pod(name, onNode))
	}
	createPod(t, c, pod("f"))
	var names []string
	options := metav1.ListOptions{Limit: 2, FieldSelector: "spec.nodeName=a,status.phase=Pending"}
	for {
		list, err := c.CoreV1().Pods("").List(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list.Items {
			names = append(names, p.Name)
		}
		if options.Continue = list.Continue; options.Continue == "" {
			break
		}
	}
	if len(names) != 5 {
		t.Errorf("pages held %v", names)
	}
	_, err := c.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nothing=a"})
	if !apierrors.IsBadRequest(err) {
		t.Errorf("unknown field: %v", err)
	}
}

func TestScale(t *testing.T) {
	f := newFixture(t)
	c := clientOf(t, f.server, admin)
	for _, sample := range documents(t, "valid.yaml") {
		if sample.GetKind() == "Deployment" {
			r, _ := f.resource(t, sample.GroupVersionKind())
			if _, err := r.Create(t.Context(), sample, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	deployments := c.AppsV1().Deployments("default")
	scale, err := deployments.GetScale(t.Context(), "sample", metav1.GetOptions{})
	if err != nil || scale.Spec.Replicas != 1 || scale.Status.Selector != "app=sample" {
		t.Fatalf("%v %v", scale, err)
	}
	scale.Spec.Replicas = 6
	if _, err := deployments.UpdateScale(t.Context(), "sample", scale, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := deployments.Patch(t.Context(), "sample", types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{}, "scale"); err != nil {
		t.Fatal(err)
	}
	d, err := deployments.Get(t.Context(), "sample", metav1.GetOptions{})
	if err != nil || *d.Spec.Replicas != 3 || d.Generation != 3 {
		t.Errorf("%v %v", d, err)
	}
	scale.Spec.Replicas, scale.ResourceVersion = -1, ""
	_, err = deployments.UpdateScale(t.Context(), "sample", scale, metav1.UpdateOptions{})
	if want := `Scale.autoscaling "sample" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
