package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"

	"kontiki/raftstore/raftstoretest"
)

// jsonConfig is a client of plain JSON, as kubectl and the dynamic client are.
func jsonConfig(s *Server) *rest.Config {
	c := s.Client(admin)
	c.ContentConfig = rest.ContentConfig{}
	return c
}

// documents reads the objects of the files below testdata that pattern matches,
// split at "---".
func documents(t *testing.T, pattern string) []*unstructured.Unstructured {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("no files match %s: %v", pattern, err)
	}
	var out []*unstructured.Unstructured
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range bytes.Split(data, []byte("\n---\n")) {
			obj := &unstructured.Unstructured{}
			if err := yaml.Unmarshal(doc, &obj.Object); err != nil {
				t.Fatalf("%s: %v in\n%s", name, err, doc)
			}
			if len(obj.Object) > 0 {
				out = append(out, obj)
			}
		}
	}
	return out
}

type fixture struct {
	server *Server
	client dynamic.Interface
	mapper meta.RESTMapper
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	s := startServer(t, raftstoretest.New(t))
	cfg := jsonConfig(s)
	f := &fixture{server: s}
	var err error
	if f.client, err = dynamic.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(d)
	if err != nil {
		t.Fatal(err)
	}
	f.mapper = restmapper.NewDiscoveryRESTMapper(groups)
	defaultNamespace(t, clientOf(t, s, admin))
	return f
}

func (f *fixture) resource(t *testing.T, gvk schema.GroupVersionKind) (dynamic.ResourceInterface, *meta.RESTMapping) {
	t.Helper()
	m, err := f.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		t.Fatal(err)
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return f.client.Resource(m.Resource).Namespace("default"), m
	}
	return f.client.Resource(m.Resource), m
}

// TestNoKindWithoutSample wants a valid sample of every kind that can be created
// and read again; kinds of the library's own servers have tests of their own.
func TestNoKindWithoutSample(t *testing.T) {
	f := newFixture(t)
	have := map[schema.GroupVersionKind]bool{}
	for _, sample := range documents(t, "valid.yaml") {
		have[sample.GroupVersionKind()] = true
	}
	d, err := discovery.NewDiscoveryClientForConfig(jsonConfig(f.server))
	if err != nil {
		t.Fatal(err)
	}
	_, lists, err := d.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list.APIResources {
			verbs := sets.New(r.Verbs...)
			library := gv.Group == "apiextensions.k8s.io" || gv.Group == "apiregistration.k8s.io"
			if !library && !strings.Contains(r.Name, "/") && verbs.HasAll("create", "get") && !have[gv.WithKind(r.Kind)] {
				t.Errorf("no sample of %s in testdata/valid.yaml", gv.WithKind(r.Kind))
			}
		}
	}
}

// TestEveryKind takes a valid sample of each kind through its life.
func TestEveryKind(t *testing.T) {
	f := newFixture(t)
	for _, sample := range documents(t, "valid.yaml") {
		gvk := sample.GroupVersionKind()
		t.Run(gvk.Group+"/"+gvk.Kind, func(t *testing.T) { f.life(t, sample) })
	}
}

func (f *fixture) life(t *testing.T, sample *unstructured.Unstructured) {
	ctx, name := t.Context(), sample.GetName()
	r, m := f.resource(t, sample.GroupVersionKind())
	w, err := r.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()

	dry, err := r.Create(ctx, sample, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil || dry.GetUID() == "" {
		t.Fatalf("dry run: %v %v", dry, err)
	}
	created, err := r.Create(ctx, sample, metav1.CreateOptions{FieldValidation: "Strict"})
	if err != nil {
		t.Fatal(err)
	}
	next(t, w, watch.Added)
	if _, err := r.Create(ctx, sample, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("second create: %v", err)
	}
	got, err := r.Get(ctx, name, metav1.GetOptions{})
	if err != nil || got.GetResourceVersion() != created.GetResourceVersion() {
		t.Fatalf("get: %v %v", got, err)
	}
	if got.GroupVersionKind() != sample.GroupVersionKind() {
		t.Errorf("kind is %v", got.GroupVersionKind())
	}
	list, err := r.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name, LabelSelector: "app=sample"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("list: %v %v", list, err)
	}
	f.bareItems(t, m.Resource)
	f.patches(t, r, name, w)

	got, _ = r.Get(ctx, name, metav1.GetOptions{})
	stale := created.DeepCopy()
	stale.SetAnnotations(map[string]string{"late": "yes"})
	if _, err := r.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of an old version: %v", err)
	}
	got.SetAnnotations(map[string]string{"updated": "yes"})
	if _, err := r.Update(ctx, got, metav1.UpdateOptions{}); err != nil {
		t.Errorf("update: %v", err)
	}
	next(t, w, watch.Modified)
	f.apply(t, r, sample)
	f.table(t, m.Resource, name)

	// What protects claims and volumes in use is a controller's to take off.
	if k := sample.GetKind(); k == "PersistentVolumeClaim" || k == "PersistentVolume" {
		if _, err := r.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// Some kinds keep what they own by default, until the garbage collector has seen to it.
	background := metav1.DeletePropagationBackground
	if err := r.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	if sample.GetKind() == "Namespace" {
		f.finalize(t, name)
	}
	until(t, w, watch.Deleted)
	if _, err := r.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get after delete: %v", err)
	}
}

// bareItems checks that items of a list carry no kind, as upstream's do not.
func (f *fixture) bareItems(t *testing.T, gvr schema.GroupVersionResource) {
	t.Helper()
	var list struct {
		Kind  string
		Items []map[string]any
	}
	if err := json.Unmarshal(f.raw(t, gvr, "application/json", ""), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) == 0 || !strings.HasSuffix(list.Kind, "List") {
		t.Fatalf("list of %s is a %q of %d", gvr.Resource, list.Kind, len(list.Items))
	}
	if _, ok := list.Items[0]["kind"]; ok {
		t.Error("items of the list have a kind")
	}
}

func (f *fixture) raw(t *testing.T, gvr schema.GroupVersionResource, accept, query string) []byte {
	t.Helper()
	base := "/apis/" + gvr.Group
	if gvr.Group == "" {
		base = "/api"
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://x"+base+"/"+gvr.Version+"/"+gvr.Resource+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := f.server.Client(admin).Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s %v", req.URL, resp.StatusCode, body.Bytes(), err)
	}
	return body.Bytes()
}

func (f *fixture) patches(t *testing.T, r dynamic.ResourceInterface, name string, w watch.Interface) {
	t.Helper()
	for _, p := range []struct {
		kind types.PatchType
		body string
	}{
		{types.MergePatchType, `{"metadata":{"annotations":{"a":"1"}}}`},
		{types.StrategicMergePatchType, `{"metadata":{"annotations":{"b":"2"}}}`},
		{types.JSONPatchType, `[{"op":"add","path":"/metadata/annotations/c","value":"3"}]`},
	} {
		got, err := r.Patch(t.Context(), name, p.kind, []byte(p.body), metav1.PatchOptions{})
		if err != nil {
			t.Fatalf("%s: %v", p.kind, err)
		}
		if len(got.GetAnnotations()) == 0 {
			t.Errorf("%s changed nothing", p.kind)
		}
		next(t, w, watch.Modified)
	}
}

func (f *fixture) apply(t *testing.T, r dynamic.ResourceInterface, sample *unstructured.Unstructured) {
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

func (f *fixture) table(t *testing.T, gvr schema.GroupVersionResource, name string) {
	t.Helper()
	var table metav1.Table
	body := f.raw(t, gvr, "application/json;as=Table;v=v1;g=meta.k8s.io", "?fieldSelector=metadata.name="+name)
	if err := json.Unmarshal(body, &table); err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 1 || len(table.Rows[0].Cells) != len(table.ColumnDefinitions) {
		t.Fatalf("table of %s: %s", gvr.Resource, body)
	}
	var line []string
	for i, c := range table.ColumnDefinitions {
		line = append(line, fmt.Sprintf("%s=%v", c.Name, table.Rows[0].Cells[i]))
	}
	t.Log(strings.Join(line, " | "))
}

// TestWatchedTables is `kubectl get --watch`: rows instead of objects, and the
// same objects for other watchers at the same time.
func TestWatchedTables(t *testing.T) {
	f := newFixture(t)
	c := clientOf(t, f.server, admin)
	get := func(accept string) *json.Decoder {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://x/api/v1/configmaps?watch=true", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := f.server.Client(admin).Transport.RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v %v", resp, err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return json.NewDecoder(resp.Body)
	}
	tables, objects := get("application/json;as=Table;v=v1;g=meta.k8s.io"), get("application/json")
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": "v"}}
	if _, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var table struct{ Object metav1.Table }
	if err := tables.Decode(&table); err != nil || len(table.Object.Rows) != 1 || table.Object.Rows[0].Cells[0] != "a" {
		t.Errorf("%v %v", table, err)
	}
	var object struct{ Object corev1.ConfigMap }
	if err := objects.Decode(&object); err != nil || object.Object.Kind != "ConfigMap" || object.Object.Data["k"] != "v" {
		t.Errorf("%v %v", object, err)
	}
}

// finalize ends a namespace as its controller would.
func (f *fixture) finalize(t *testing.T, name string) {
	t.Helper()
	c := clientOf(t, f.server, admin).CoreV1().Namespaces()
	ns, err := c.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil || ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp == nil {
		t.Fatalf("deleted namespace: %v %v", ns, err)
	}
	ns.Spec.Finalizers = nil
	if _, err := c.Finalize(t.Context(), ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func next(t *testing.T, w watch.Interface, want watch.EventType) {
	t.Helper()
	select {
	case e := <-w.ResultChan():
		if e.Type != want {
			t.Fatalf("event %s %v, want %s", e.Type, e.Object, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("no event %s", want)
	}
}

func until(t *testing.T, w watch.Interface, want watch.EventType) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				t.Fatalf("the watch ended before %s", want)
			}
			if e.Type == want {
				return
			}
		case <-timeout:
			t.Fatalf("no event %s", want)
		}
	}
}

// TestInvalid wants upstream's messages for what upstream refuses: each document
// below invalid/ carries, as an annotation, what a kube-apiserver v1.37.2 says of it.
func TestInvalid(t *testing.T) {
	f := newFixture(t)
	for i, sample := range documents(t, "invalid/*.yaml") {
		annotations := sample.GetAnnotations()
		want := annotations["want"]
		delete(annotations, "want")
		sample.SetAnnotations(annotations)
		t.Run(fmt.Sprintf("%d-%s", i, sample.GetKind()), func(t *testing.T) {
			r, _ := f.resource(t, sample.GroupVersionKind())
			_, err := r.Create(context.Background(), sample, metav1.CreateOptions{})
			if err == nil {
				t.Fatalf("accepted, want %q", want)
			}
			if got := err.Error(); got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}
