package storage_test

import (
	"bytes"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/registry/generic"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"

	kontikistorage "kontiki/apiserver/storage"
)

// open does what a registry does with the options of a resource.
func open(t *testing.T, getter generic.RESTOptionsGetter, resource schema.GroupResource, newFunc, newListFunc func() runtime.Object) storage.Interface {
	t.Helper()
	opts, err := getter.GetRESTOptions(resource, newFunc())
	if err != nil {
		t.Fatal(err)
	}
	s, destroy, err := opts.Decorator(opts.StorageConfig, "/"+opts.ResourcePrefix, nil, newFunc, newListFunc, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(destroy)
	return s
}

func TestRESTOptions(t *testing.T) {
	scheme := newScheme()
	backend := newStore(t)
	pods, others := example.SchemeGroupVersion.WithResource("pods").GroupResource(), example.SchemeGroupVersion.WithResource("plainpods").GroupResource()
	getter, err := kontikistorage.NewRESTOptions(kontikistorage.RESTOptionsConfig{
		Store:        backend,
		Serializer:   serializer.NewCodecFactory(scheme),
		Encoding:     serverstorage.NewDefaultResourceEncodingConfig(scheme),
		MediaTypes:   map[schema.GroupResource]string{others: runtime.ContentTypeJSON},
		Transformers: map[schema.GroupResource]value.Transformer{pods: storagetesting.NewPrefixTransformer([]byte("sealed!"), false)},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, getter, pods, func() runtime.Object { return &example.Pod{} }, func() runtime.Object { return &example.PodList{} })
	out := &example.Pod{}
	if err := s.Create(t.Context(), "/example.apiserver.k8s.io/pods/ns/a", newPod(nil), out, 0); err != nil {
		t.Fatal(err)
	}
	kv, ok := backend.View().Get("/registry/example.apiserver.k8s.io/pods/ns/a")
	if !ok || !bytes.HasPrefix(kv.Value, []byte("sealed!k8s\x00")) {
		t.Errorf("stored is %q, expected protobuf under the resource's transformer", kv.Value)
	}
	if out.Kind != "" || out.APIVersion != "" {
		t.Errorf("an object in memory carries %s %s", out.APIVersion, out.Kind)
	}

	s = open(t, getter, others, func() runtime.Object { return &example.Pod{} }, func() runtime.Object { return &example.PodList{} })
	if err := s.Create(t.Context(), "/example.apiserver.k8s.io/plainpods/ns/a", newPod(nil), nil, 0); err != nil {
		t.Fatal(err)
	}
	if kv, _ := backend.View().Get("/registry/example.apiserver.k8s.io/plainpods/ns/a"); !bytes.HasPrefix(kv.Value, []byte(`{"kind":"Pod"`)) {
		t.Errorf("stored is %q, expected plain JSON", kv.Value)
	}
}

func TestCustomResources(t *testing.T) {
	backend := newStore(t)
	getter, err := kontikistorage.NewRESTOptions(kontikistorage.RESTOptionsConfig{Store: backend})
	if err != nil {
		t.Fatal(err)
	}
	resource := schema.GroupResource{Group: "stable.example.com", Resource: "crontabs"}
	if _, err := getter.GetRESTOptions(resource, nil); err == nil {
		t.Error("a typed resource is stored without a codec")
	}
	s := open(t, getter.CustomResources(), resource,
		func() runtime.Object { return &unstructured.Unstructured{} }, func() runtime.Object { return &unstructured.UnstructuredList{} })
	in := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": map[string]any{"name": "a", "namespace": "ns"}, "spec": int64(5),
	}}
	if err := s.Create(t.Context(), "/stable.example.com/crontabs/ns/a", in, nil, 0); err != nil {
		t.Fatal(err)
	}
	list := &unstructured.UnstructuredList{}
	if err := s.GetList(t.Context(), "/stable.example.com/crontabs", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].GetKind() != "CronTab" || list.Items[0].Object["spec"] != int64(5) || list.Items[0].GetResourceVersion() == "" {
		t.Errorf("listed is %v", list.Items)
	}
}
