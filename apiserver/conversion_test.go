package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"kontiki/raftstore/raftstoretest"
)

// boatDefinition has a skipper in one word, and in two since v2. What is stored is v1.
const boatDefinition = `
metadata: {name: boats.sea.example}
spec:
  group: sea.example
  scope: Namespaced
  names: {plural: boats, singular: boat, kind: Boat, listKind: BoatList}
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig:
        service: {namespace: default, name: convert, path: /boats}
        caBundle: %s
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {skipper: {type: string}}}
  - name: v2
    served: true
    storage: false
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {first: {type: string}, last: {type: string}}}
`

// convertBoat is what the webhook does with one object. It knows nobody called Nobody.
func convertBoat(boat *unstructured.Unstructured, to string) error {
	spec := map[string]any{}
	if strings.HasSuffix(to, "/v2") {
		skipper, _, _ := unstructured.NestedString(boat.Object, "spec", "skipper")
		first, last, _ := strings.Cut(skipper, " ")
		if first == "Nobody" {
			return fmt.Errorf("%s has no skipper", boat.GetName())
		}
		spec["first"], spec["last"] = first, last
	} else {
		first, _, _ := unstructured.NestedString(boat.Object, "spec", "first")
		last, _, _ := unstructured.NestedString(boat.Object, "spec", "last")
		spec["skipper"] = first + " " + last
	}
	boat.SetAPIVersion(to)
	boat.Object["spec"] = spec
	return nil
}

// converter answers conversion reviews.
func converter(w http.ResponseWriter, r *http.Request) {
	var review apiextensionsv1.ConversionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil || r.URL.Path != "/boats" {
		http.Error(w, fmt.Sprint(r.URL, err), http.StatusBadRequest)
		return
	}
	answer := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		boat := &unstructured.Unstructured{}
		err := boat.UnmarshalJSON(raw.Raw)
		if err == nil {
			err = convertBoat(boat, review.Request.DesiredAPIVersion)
		}
		if err != nil {
			answer.Result, answer.ConvertedObjects = metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}, nil
			break
		}
		answer.ConvertedObjects = append(answer.ConvertedObjects, runtime.RawExtension{Object: boat})
	}
	review.Request, review.Response = nil, answer
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review) // who asked is gone
}

// TestConversionWebhooks has a kind with two versions that its webhook converts: each object is
// created, read, listed, watched and changed in both, whichever is stored.
func TestConversionWebhooks(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	ca := newAuthority(t)
	_, addr := ca.serve(t, http.HandlerFunc(converter), nil, "convert.default.svc")
	expose(t, c, "convert", addr)
	bundle, err := json.Marshal(ca.pem())
	if err != nil {
		t.Fatal(err)
	}
	define(t, s, fmt.Sprintf(boatDefinition, bundle))
	boats := func(version string) dynamic.ResourceInterface {
		return dynamicOf(t, s).Resource(schema.GroupVersionResource{Group: "sea.example", Version: version, Resource: "boats"}).Namespace("default")
	}
	v1, v2 := boats("v1"), boats("v2")
	ctx := t.Context()
	old, err := v1.Create(ctx, object(t, `{apiVersion: sea.example/v1, kind: Boat, metadata: {name: kontiki, labels: {app: boat}}, spec: {skipper: Thor Heyerdahl}}`), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	shows := func(what string, boat *unstructured.Unstructured, err error, want string) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		if spec, _ := json.Marshal(boat.Object["spec"]); string(spec) != want {
			t.Errorf("%s: %s, want %s", what, spec, want)
		}
	}
	eventually(t, "the webhook is found", func(ctx context.Context) (bool, error) {
		_, err := v2.Get(ctx, "kontiki", metav1.GetOptions{})
		return err == nil, nil
	})
	got, err := v2.Get(ctx, "kontiki", metav1.GetOptions{})
	shows("what was made as v1, read as v2", got, err, `{"first":"Thor","last":"Heyerdahl"}`)
	if err == nil && (got.GetUID() != old.GetUID() || got.GetResourceVersion() != old.GetResourceVersion() || got.GetLabels()["app"] != "boat") {
		t.Errorf("it is another: %v, %v", got, old)
	}
	w, err := v2.Watch(ctx, metav1.ListOptions{ResourceVersion: old.GetResourceVersion()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	_, err = v2.Create(ctx, object(t, `{apiVersion: sea.example/v2, kind: Boat, metadata: {name: ra}, spec: {first: Norman, last: Baker}}`), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err = v1.Get(ctx, "ra", metav1.GetOptions{})
	shows("what was made as v2, read as v1", got, err, `{"skipper":"Norman Baker"}`)
	got, err = v2.Patch(ctx, "kontiki", "application/merge-patch+json", []byte(`{"spec":{"first":"T."}}`), metav1.PatchOptions{})
	shows("patched as v2", got, err, `{"first":"T.","last":"Heyerdahl"}`)
	got, err = v1.Get(ctx, "kontiki", metav1.GetOptions{})
	shows("patched as v2, read as v1", got, err, `{"skipper":"T. Heyerdahl"}`)
	applied := object(t, `{apiVersion: sea.example/v2, kind: Boat, metadata: {name: kontiki}, spec: {last: H.}}`)
	got, err = v2.Apply(ctx, "kontiki", applied, metav1.ApplyOptions{FieldManager: "test", Force: true})
	shows("applied as v2", got, err, `{"first":"T.","last":"H."}`)
	for _, want := range []string{`{"first":"Norman","last":"Baker"}`, `{"first":"T.","last":"Heyerdahl"}`, `{"first":"T.","last":"H."}`} {
		select {
		case e := <-w.ResultChan():
			boat, ok := e.Object.(*unstructured.Unstructured)
			if !ok || e.Type == watch.Error {
				t.Fatalf("watched as v2: %+v", e)
			}
			shows("watched as v2", boat, nil, want)
		case <-time.After(20 * time.Second):
			t.Fatalf("the watch does not show %s", want)
		}
	}
	list, err := v2.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 || list.GetAPIVersion() != "sea.example/v2" {
		t.Errorf("listed as v2: %v, %v", list, err)
	}

	if _, err := v1.Create(ctx, object(t, `{apiVersion: sea.example/v1, kind: Boat, metadata: {name: wreck}, spec: {skipper: Nobody}}`), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := v2.Get(ctx, "wreck", metav1.GetOptions{}); err == nil || !strings.Contains(err.Error(), "conversion webhook for sea.example/v1, Kind=Boat failed: wreck has no skipper") {
		t.Errorf("what the webhook does not convert: %v", err)
	}
	// What is asked for as it is stored needs no webhook.
	if err := c.CoreV1().Services("default").Delete(ctx, "convert", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the webhook is found no more", func(ctx context.Context) (bool, error) {
		_, err := v2.Get(ctx, "ra", metav1.GetOptions{})
		return err != nil && strings.Contains(err.Error(), "conversion webhook for sea.example/v1, Kind=Boat failed"), nil
	})
	got, err = v1.Get(ctx, "ra", metav1.GetOptions{})
	shows("read as it is stored, without the webhook", got, err, `{"skipper":"Norman Baker"}`)
}
