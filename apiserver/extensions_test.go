package apiserver

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"kontiki/raftstore/raftstoretest"
)

const shipDefinition = `
metadata: {name: ships.sea.example}
spec:
  group: sea.example
  scope: Namespaced
  names: {plural: ships, singular: ship, kind: Ship, listKind: ShipList, shortNames: [sh], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.sails, statusReplicasPath: .status.sails}
    selectableFields: [{jsonPath: .spec.flag}]
    additionalPrinterColumns:
    - {name: Sails, type: integer, jsonPath: .spec.sails}
    schema:
      openAPIV3Schema:
        type: object
        description: A Ship sails.
        properties:
          spec:
            type: object
            x-kubernetes-validations:
            - {rule: "self.sails <= self.masts * 3", message: a mast carries three sails}
            properties:
              flag: {type: string}
              masts: {type: integer, default: 2}
              sails: {type: integer, default: 1, minimum: 0}
          status:
            type: object
            properties: {sails: {type: integer}}
`

var ships = schema.GroupVersionResource{Group: "sea.example", Version: "v1", Resource: "ships"}

// eventually waits for a condition and says what did not happen.
func eventually(t *testing.T, what string, f func(ctx context.Context) (bool, error)) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 20*time.Second, true, f); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func fromYAML[T any](t *testing.T, text string) *T {
	t.Helper()
	v := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), v); err != nil {
		t.Fatal(err)
	}
	return v
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	return &unstructured.Unstructured{Object: *fromYAML[map[string]any](t, text)}
}

func dynamicOf(t *testing.T, s *Server) dynamic.Interface {
	t.Helper()
	c, err := dynamic.NewForConfig(jsonOnly(s.Client(admin)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// define makes a kind and waits until it is served.
func define(t *testing.T, s *Server, text string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	c, err := extensionsclient.NewForConfig(s.Client(admin))
	if err != nil {
		t.Fatal(err)
	}
	definitions := c.ApiextensionsV1().CustomResourceDefinitions()
	def, err := definitions.Create(t.Context(), fromYAML[apiextensionsv1.CustomResourceDefinition](t, text), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	name := def.Name
	eventually(t, name+" is established", func(ctx context.Context) (bool, error) {
		def, err = definitions.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range def.Status.Conditions {
			if c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
	return def
}

func TestCustomResources(t *testing.T) {
	store := raftstoretest.New(t)
	s := startServer(t, store)
	defaultNamespace(t, clientOf(t, s, admin))
	define(t, s, shipDefinition)
	client := dynamicOf(t, s).Resource(ships).Namespace("default")
	ctx := t.Context()

	got, err := client.Create(ctx, object(t, `{apiVersion: sea.example/v1, kind: Ship, metadata: {name: raft},
		spec: {flag: norway, unknown: pruned}, status: {sails: 9}}`), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if spec, _ := json.Marshal(got.Object["spec"]); string(spec) != `{"flag":"norway","masts":2,"sails":1}` {
		t.Errorf("defaulted and pruned: %s", spec)
	}
	if _, ok := got.Object["status"]; ok || got.GetGeneration() != 1 {
		t.Errorf("a new object with status %v and generation %d", got.Object["status"], got.GetGeneration())
	}
	_, err = client.Create(ctx, object(t, `{apiVersion: sea.example/v1, kind: Ship, metadata: {name: bad}, spec: {sails: 7}}`), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "a mast carries three sails") {
		t.Errorf("too many sails: %v", err)
	}
	_, err = client.Create(ctx, object(t, `{apiVersion: sea.example/v1, kind: Ship, metadata: {name: bad}, spec: {sails: -1}}`), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.sails in body should be greater than or equal to 0") {
		t.Errorf("less than none: %v", err)
	}
	_, err = client.Create(ctx, object(t, `{apiVersion: sea.example/v1, kind: Ship, metadata: {name: bad}, spec: {unknown: 1}}`), metav1.CreateOptions{FieldValidation: "Strict"})
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `unknown field "spec.unknown"`) {
		t.Errorf("strict: %v", err)
	}

	if _, err := client.Patch(ctx, "raft", types.MergePatchType, []byte(`{"spec":{"replicas":4}}`), metav1.PatchOptions{}, "scale"); err != nil {
		t.Error(err)
	}
	got, err = client.Patch(ctx, "raft", types.MergePatchType, []byte(`{"status":{"sails":4},"spec":{"sails":0}}`), metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	if sails, _, _ := unstructured.NestedInt64(got.Object, "spec", "sails"); sails != 4 {
		t.Errorf("%d sails after scale to 4 and a write of status", sails)
	}
	applied, err := client.Apply(ctx, "raft", object(t, `{apiVersion: sea.example/v1, kind: Ship, metadata: {name: raft}, spec: {flag: peru}}`), metav1.ApplyOptions{FieldManager: "test", Force: true})
	if err != nil || applied.Object["spec"].(map[string]any)["flag"] != "peru" {
		t.Errorf("applied: %v %v", applied, err)
	}
	for selector, want := range map[string]int{"spec.flag=peru": 1, "spec.flag=norway": 0} {
		list, err := client.List(ctx, metav1.ListOptions{FieldSelector: selector})
		if err != nil || len(list.Items) != want {
			t.Errorf("%s: %v %v", selector, list, err)
		}
	}
	rest := clientOf(t, s, admin).Discovery().RESTClient()
	var table metav1.Table
	data, err := rest.Get().AbsPath("/apis/sea.example/v1/namespaces/default/ships").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(ctx).Raw()
	if err == nil {
		err = json.Unmarshal(data, &table)
	}
	if err != nil || len(table.Rows) != 1 || table.ColumnDefinitions[1].Name != "Sails" || table.Rows[0].Cells[1] != 4.0 {
		t.Errorf("table: %s %v", data, err)
	}
	eventually(t, "the kind is discovered", func(ctx context.Context) (bool, error) {
		list, err := clientOf(t, s, admin).Discovery().ServerPreferredNamespacedResources()
		if err != nil {
			return false, err
		}
		for _, group := range list {
			for _, r := range group.APIResources {
				if r.Kind == "Ship" && r.ShortNames[0] == "sh" {
					return true, nil
				}
			}
		}
		return false, nil
	})
}

// TestCustomResourcesAfterRestart wants a second server on the same store to
// serve what the first was told, and to write nothing by itself.
func TestCustomResourcesAfterRestart(t *testing.T) {
	store := raftstoretest.New(t)
	first := startServer(t, store)
	defaultNamespace(t, clientOf(t, first, admin))
	define(t, first, shipDefinition)
	ship := object(t, `{apiVersion: sea.example/v1, kind: Ship, metadata: {name: raft}}`)
	if _, err := dynamicOf(t, first).Resource(ships).Namespace("default").Create(t.Context(), ship, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ready(t, first)
	settled(t, first, "v1.sea.example")
	revision := store.View().Revision()

	second := startServer(t, store)
	ready(t, second)
	settled(t, second, "v1.sea.example")
	eventually(t, "the second server serves ships", func(ctx context.Context) (bool, error) {
		got, err := dynamicOf(t, second).Resource(ships).Namespace("default").Get(ctx, "raft", metav1.GetOptions{})
		if apierrors.IsServiceUnavailable(err) {
			return false, nil
		}
		return err == nil && got.GetName() == "raft", err
	})
	if now := store.View().Revision(); now != revision {
		t.Errorf("starting a server has raised the revision from %d to %d", revision, now)
	}
	c, err := extensionsclient.NewForConfig(second.Client(admin))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ApiextensionsV1().CustomResourceDefinitions().Delete(t.Context(), "ships.sea.example", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ships are gone with their definition, everywhere", func(ctx context.Context) (bool, error) {
		_, err := dynamicOf(t, first).Resource(ships).Namespace("default").List(ctx, metav1.ListOptions{})
		return apierrors.IsNotFound(err) && store.View().Count("/registry/sea.example/") == 0, nil
	})
}

// ready waits until a server says that it is ready.
func ready(t *testing.T, s *Server) {
	t.Helper()
	rest := clientOf(t, s, admin).Discovery().RESTClient()
	eventually(t, "ready", func(ctx context.Context) (bool, error) {
		return rest.Get().AbsPath("/readyz").Do(ctx).Error() == nil, nil
	})
}
