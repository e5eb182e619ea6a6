package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/yaml"

	"kontiki/jepsen/lab"
)

// TestKinds takes a sample of every kind through its life on each node of a lab in
// turn, while another node watches it, and again on those that are left when the
// leader is killed. Between them it types what people type, and at the end looks at
// what a node says that is left alone.
func TestKinds(t *testing.T) {
	c := newCluster(t, "kinds", 3)
	samples := kindSamples(t)
	hosts := c.Hosts()
	for i, h := range hosts {
		c.everyKind(t, h.Name, samples, h, hosts[(i+1)%len(hosts)])
	}
	t.Run("kubectl", func(t *testing.T) { c.everyCommand(t, hosts[1]) })
	leader := c.leader(t, hosts[0])
	if err := leader.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	left := c.others(leader)
	for _, h := range left {
		c.eventually(t, "default/kubernetes to lead to those that are left, as "+h.Name+" shows it", func(ctx context.Context) error {
			return c.leadsToAPIServers(ctx, t, h, left)
		})
	}
	for i, h := range left {
		c.everyKind(t, h.Name+"-after-"+leader.Name, samples, h, left[(i+1)%len(left)])
	}
	t.Run("without quorum", func(t *testing.T) { c.withoutQuorum(t, left[0]) })
}

// leadsToAPIServers says whether the EndpointSlices of default/kubernetes hold the addresses of
// these hosts and no others.
func (c *cluster) leadsToAPIServers(ctx context.Context, t *testing.T, at *lab.Host, want []*lab.Host) error {
	list, err := c.client(t, at).DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=kubernetes"})
	if err != nil {
		return err
	}
	var got, wanted []string
	for _, slice := range list.Items {
		for _, ep := range slice.Endpoints {
			got = append(got, ep.Addresses...)
		}
	}
	for _, h := range want {
		wanted = append(wanted, h.Addr.String())
	}
	slices.Sort(got)
	slices.Sort(wanted)
	if !slices.Equal(got, wanted) {
		return fmt.Errorf("they are %v, want %v", got, wanted)
	}
	return nil
}

// kindSamples are the samples that the API server's own tests use.
func kindSamples(t *testing.T) (samples []*unstructured.Unstructured) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "apiserver", "testdata", "valid.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
		sample := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, &sample.Object); err != nil {
			t.Fatal(err)
		}
		if len(sample.Object) > 0 {
			unstructured.RemoveNestedField(sample.Object, "spec", "podCIDR") // the cluster's own nodes have it
			if sample.GetKind() == "Endpoints" {
				sample.SetName("by-hand") // those of a Service are its controller's
			}
			samples = append(samples, sample)
		}
	}
	return samples
}

// kindClient speaks of any kind to one node.
type kindClient struct {
	dynamic.Interface
	mapper meta.RESTMapper
}

func newKindClient(t *testing.T, h *lab.Host) kindClient {
	t.Helper()
	config, err := h.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	config.Timeout = patience
	config.WarningHandler = rest.NoWarnings{}
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(d)
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return kindClient{client, restmapper.NewDiscoveryRESTMapper(groups)}
}

func (k kindClient) of(t *testing.T, sample *unstructured.Unstructured) dynamic.ResourceInterface {
	t.Helper()
	gvk := sample.GroupVersionKind()
	m, err := k.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		t.Fatal(err)
	}
	if m.Scope.Name() == meta.RESTScopeNameRoot {
		return k.Resource(m.Resource)
	}
	return k.Resource(m.Resource).Namespace(sample.GetNamespace())
}

// adoptable kinds are taken by controllers' objects next to them, by their labels, and deleted with those.
var adoptable = []string{"Pod", "ReplicaSet", "ControllerRevision"}

// everyKind runs one host's round. What bounds pods lives in a namespace of its own, and
// so does each kind that could be adopted.
func (c *cluster) everyKind(t *testing.T, round string, samples []*unstructured.Unstructured, at, watcher *lab.Host) {
	namespaces := []string{round, round + "-bounds"}
	for _, kind := range adoptable {
		namespaces = append(namespaces, round+"-"+strings.ToLower(kind))
	}
	for _, ns := range namespaces {
		c.eventually(t, "namespace "+ns, func(ctx context.Context) error {
			_, err := c.client(t, at).CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				return nil
			}
			return err
		})
	}
	t.Run(round, func(t *testing.T) {
		began := time.Now()
		here, there := newKindClient(t, at), newKindClient(t, watcher)
		t.Run("kinds", func(t *testing.T) {
			for _, sample := range samples {
				sample = sample.DeepCopy()
				switch kind := sample.GetKind(); {
				case kind == "ResourceQuota", kind == "LimitRange":
					sample.SetNamespace(round + "-bounds")
				case slices.Contains(adoptable, kind):
					sample.SetNamespace(round + "-" + strings.ToLower(kind))
				default:
					sample.SetNamespace(round)
				}
				for _, about := range []string{"involvedObject", "regarding"} { // an event is where its object is
					if _, ok := sample.Object[about]; ok {
						_ = unstructured.SetNestedField(sample.Object, round, about, "namespace") // it is an object
					}
				}
				if here.cluster(t, sample) {
					sample.SetNamespace("")
				}
				t.Run(strings.ReplaceAll(sample.GetAPIVersion(), "/", ".")+"."+sample.GetKind(), func(t *testing.T) {
					t.Parallel()
					kindLife(t, here.of(t, sample), there.of(t, sample), sample)
				})
			}
		})
		t.Logf("%d kinds in %v", len(samples), time.Since(began).Round(time.Millisecond))
	})
}

func (k kindClient) cluster(t *testing.T, sample *unstructured.Unstructured) bool {
	t.Helper()
	gvk := sample.GroupVersionKind()
	m, err := k.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		t.Fatal(err)
	}
	return m.Scope.Name() == meta.RESTScopeNameRoot
}

// kindLife is create, read, list, watch, change, apply and delete, on a cluster
// whose controllers may write the object at any moment.
func kindLife(t *testing.T, r, watcher dynamic.ResourceInterface, sample *unstructured.Unstructured) {
	ctx, name := t.Context(), sample.GetName()
	one := "metadata.name=" + name
	w, err := watcher.Watch(ctx, metav1.ListOptions{FieldSelector: one, ResourceVersion: "0", AllowWatchBookmarks: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	created, err := r.Create(ctx, sample, metav1.CreateOptions{FieldValidation: "Strict"})
	if err != nil {
		t.Fatal(err)
	}
	seen(t, w, watch.Added)
	if _, err := r.Create(ctx, sample, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("second create: %v", err)
	}
	if got, err := r.Get(ctx, name, metav1.GetOptions{}); err != nil || got.GetUID() != created.GetUID() {
		t.Fatalf("get: %v", err)
	}
	kindLists(t, r, created)
	kindInitialEvents(t, watcher, created)
	kindChanges(t, r, created)
	kindApply(t, r, sample)
	seen(t, w, watch.Modified)
	kindDelete(t, r, created)
	seen(t, w, watch.Deleted)
}

func kindLists(t *testing.T, r dynamic.ResourceInterface, created *unstructured.Unstructured) {
	t.Helper()
	one := "metadata.name=" + created.GetName()
	for what, o := range map[string]metav1.ListOptions{
		"the latest":          {FieldSelector: one},
		"by label":            {LabelSelector: "app in (sample)", FieldSelector: one},
		"of a revision":       {FieldSelector: one, ResourceVersion: created.GetResourceVersion(), ResourceVersionMatch: metav1.ResourceVersionMatchExact},
		"no older than":       {FieldSelector: one, ResourceVersion: created.GetResourceVersion(), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan},
		"whatever is at hand": {FieldSelector: one, ResourceVersion: "0"},
	} {
		list, err := r.List(t.Context(), o)
		if err != nil || len(list.Items) != 1 || list.Items[0].GetUID() != created.GetUID() {
			if what == "whatever is at hand" && err == nil {
				continue // it may be of a moment before
			}
			t.Errorf("list %s: %v %v", what, list, err)
		}
	}
	pages, found := 0, false
	for o := (metav1.ListOptions{Limit: 25}); ; pages++ {
		list, err := r.List(t.Context(), o)
		if err != nil || len(list.Items) > 25 {
			t.Fatalf("page %d: %v", pages, err)
		}
		for _, item := range list.Items {
			found = found || item.GetUID() == created.GetUID()
		}
		if o.Continue = list.GetContinue(); o.Continue == "" {
			break
		}
	}
	if !found {
		t.Error("no page has the object")
	}
}

// kindInitialEvents is how informers start.
func kindInitialEvents(t *testing.T, r dynamic.ResourceInterface, created *unstructured.Unstructured) {
	t.Helper()
	yes := true
	w, err := r.Watch(t.Context(), metav1.ListOptions{
		FieldSelector: "metadata.name=" + created.GetName(), AllowWatchBookmarks: true,
		SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	seen(t, w, watch.Added)
	for {
		obj := seen(t, w, watch.Bookmark)
		if m, err := meta.Accessor(obj); err == nil && m.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
			return
		}
	}
}

func kindChanges(t *testing.T, r dynamic.ResourceInterface, created *unstructured.Unstructured) {
	t.Helper()
	ctx, name := t.Context(), created.GetName()
	for _, p := range []struct {
		kind types.PatchType
		body string
	}{
		{types.MergePatchType, `{"metadata":{"annotations":{"a":"1"}}}`},
		{types.StrategicMergePatchType, `{"metadata":{"annotations":{"b":"2"}}}`},
		{types.JSONPatchType, `[{"op":"add","path":"/metadata/annotations/c","value":"3"}]`},
	} {
		if _, err := r.Patch(ctx, name, p.kind, []byte(p.body), metav1.PatchOptions{}); err != nil {
			t.Fatalf("%s: %v", p.kind, err)
		}
	}
	stale := created.DeepCopy()
	stale.SetAnnotations(map[string]string{"late": "yes"})
	if _, err := r.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of an old version: %v", err)
	}
	err := retry.RetryOnConflict(wait.Backoff{Steps: 20, Duration: 10 * time.Millisecond, Factor: 1.5, Jitter: 0.1, Cap: time.Second}, func() error {
		got, err := r.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		notes := got.GetAnnotations()
		if notes["a"]+notes["b"]+notes["c"] != "123" {
			return fmt.Errorf("annotations are %v", notes)
		}
		notes["updated"] = "yes"
		got.SetAnnotations(notes)
		_, err = r.Update(ctx, got, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		t.Errorf("update: %v", err)
	}
}

func kindApply(t *testing.T, r dynamic.ResourceInterface, sample *unstructured.Unstructured) {
	t.Helper()
	mine := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": sample.GetAPIVersion(), "kind": sample.GetKind(),
		"metadata": map[string]any{"name": sample.GetName(), "labels": map[string]any{"applied": "one"}},
	}}
	if _, err := r.Apply(t.Context(), sample.GetName(), mine, metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		t.Fatalf("apply: %v", err)
	}
	mine.SetLabels(map[string]string{"applied": "two"})
	if _, err := r.Apply(t.Context(), sample.GetName(), mine, metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) {
		t.Errorf("apply of another's field: %v", err)
	}
	got, err := r.Apply(t.Context(), sample.GetName(), mine, metav1.ApplyOptions{FieldManager: "two", Force: true})
	if err != nil || got.GetLabels()["applied"] != "two" {
		t.Errorf("forced apply: %v %v", got, err)
	}
}

// kindDelete deletes what a finalizer holds, and takes the finalizer away.
func kindDelete(t *testing.T, r dynamic.ResourceInterface, created *unstructured.Unstructured) {
	t.Helper()
	ctx, name := t.Context(), created.GetName()
	held := `{"metadata":{"finalizers":["example.com/hold"]}}`
	if _, err := r.Patch(ctx, name, types.MergePatchType, []byte(held), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	uid, now, background := types.UID("another"), int64(0), metav1.DeletePropagationBackground
	if err := r.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}); !apierrors.IsConflict(err) {
		t.Errorf("delete of another object: %v", err)
	}
	if err := r.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now, PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	got, err := r.Get(ctx, name, metav1.GetOptions{})
	if err != nil || got.GetDeletionTimestamp() == nil {
		t.Fatalf("held by a finalizer: %v %v", got, err)
	}
	free := `[{"op":"remove","path":"/metadata/finalizers"}]`
	if _, err := r.Patch(ctx, name, types.JSONPatchType, []byte(free), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// seen waits for an event; others may come before it.
func seen(t *testing.T, w watch.Interface, want watch.EventType) any {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok || e.Type == watch.Error {
				t.Fatalf("the watch ended before %s: %v", want, e.Object)
			}
			if e.Type == want {
				return e.Object
			}
		case <-timeout:
			t.Fatalf("no event %s", want)
		}
	}
}
