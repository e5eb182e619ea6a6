package clients

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// hooks is a server of admission webhooks. It counts what it is asked.
type hooks struct{ mutating, validating atomic.Int64 }

// ServeHTTP implements http.Handler.
func (h *hooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	var cm corev1.ConfigMap
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
		http.Error(w, "no review", http.StatusBadRequest)
		return
	}
	if err := json.Unmarshal(review.Request.Object.Raw, &cm); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	resp := &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
	switch {
	case r.URL.Path == "/slow":
		select {
		case <-r.Context().Done():
		case <-time.After(20 * time.Second):
		}
		return
	case r.URL.Path == "/mutate":
		h.mutating.Add(1)
		kind := admissionv1.PatchTypeJSONPatch
		resp.PatchType, resp.Patch = &kind, []byte(`[{"op":"add","path":"/metadata/labels","value":{"hooked":"yes"}}]`)
	default:
		h.validating.Add(1)
		if cm.Labels["hooked"] != "yes" { // mutation comes first
			resp.Allowed, resp.Result = false, &metav1.Status{Message: "nobody has changed it"}
		}
		if cm.Data["bad"] != "" {
			resp.Allowed, resp.Result = false, &metav1.Status{Message: "it is bad"}
		}
	}
	review.Request, review.Response = nil, resp
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review) // the client sees what is missing
}

// TestWebhooks has a mutating and a validating webhook, and one that never answers.
func TestWebhooks(t *testing.T) {
	c := client(t)
	namespace(t, c, "hooked")
	namespace(t, c, "free")
	h := &hooks{}
	addr, ca := serve(t, h)
	at := func(path string) admissionregistrationv1.WebhookClientConfig {
		url := fmt.Sprintf("https://%s%s", addr, path)
		return admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: ca}
	}
	rules := []admissionregistrationv1.RuleWithOperations{{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
	}}
	here := &metav1.LabelSelector{MatchLabels: map[string]string{"test": "hooked"}}
	none, ignore, second := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.Ignore, int32(1)
	named := []admissionregistrationv1.MatchCondition{{Name: "not-skipped", Expression: `!object.metadata.name.startsWith("skipped")`}}
	mutating := &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "clients"},
		Webhooks: []admissionregistrationv1.MutatingWebhook{
			{Name: "change.example.com", ClientConfig: at("/mutate"), Rules: rules, NamespaceSelector: here, MatchConditions: named, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}},
			{Name: "slow.example.com", ClientConfig: at("/slow"), Rules: rules, NamespaceSelector: here, MatchConditions: named, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}, TimeoutSeconds: &second, FailurePolicy: &ignore},
		},
	}
	validating := &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "clients"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{
			{Name: "check.example.com", ClientConfig: at("/validate"), Rules: rules, NamespaceSelector: here, MatchConditions: named, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}},
		},
	}
	if _, err := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), mutating, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), validating, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	create := func(ns, name, bad string) (*corev1.ConfigMap, error) {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"bad": bad}}
		return c.CoreV1().ConfigMaps(ns).Create(t.Context(), cm, metav1.CreateOptions{})
	}
	n := 0
	eventually(t, "both webhooks to be asked", func(context.Context) error {
		n++
		got, err := create("hooked", fmt.Sprintf("try-%d", n), "")
		if err == nil && (got.Labels["hooked"] != "yes" || h.validating.Load() == 0) {
			err = errors.New("it went by")
		}
		return err
	})
	if _, err := create("hooked", "bad", "yes"); err == nil || !strings.Contains(err.Error(), `admission webhook "check.example.com" denied the request: it is bad`) {
		t.Errorf("what the webhook refuses: %v", err)
	}
	asked := h.mutating.Load() + h.validating.Load()
	for _, where := range [][2]string{{"free", "bad"}, {"hooked", "skipped"}} {
		if got, err := create(where[0], where[1], "yes"); err != nil || got.Labels["hooked"] != "" {
			t.Errorf("%v, which is not selected: %v", where, err)
		}
	}
	if now := h.mutating.Load() + h.validating.Load(); now != asked {
		t.Errorf("%d requests that are not selected went to webhooks", now-asked)
	}

	// The slow one has been ignored so far, after its second. Now it counts.
	latest, err := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), "clients", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fail := admissionregistrationv1.Fail
	latest.Webhooks[1].FailurePolicy = &fail
	if _, err := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Update(t.Context(), latest, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the slow webhook to count", func(context.Context) error {
		n++
		began := time.Now()
		_, err := create("hooked", fmt.Sprintf("try-%d", n), "")
		if err == nil || !strings.Contains(err.Error(), `failed calling webhook "slow.example.com"`) {
			return fmt.Errorf("create: %w", err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it was waited for %v", took)
		}
		return nil
	})
	if err := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(t.Context(), "clients", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(t.Context(), "clients", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// fruit is an API server of one kind, of which it has one.
func fruit(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/apis/fruit.example.com/v1":
		fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"fruit.example.com/v1","resources":[{"name":"apples","singularName":"apple","namespaced":true,"kind":"Apple","verbs":["get"]}]}`)
	case "/apis/fruit.example.com/v1/namespaces/default/apples/red":
		fmt.Fprintf(w, `{"apiVersion":"fruit.example.com/v1","kind":"Apple","metadata":{"name":"red","namespace":"default"},"asker":%q}`, r.Header.Get("X-Remote-Group"))
	default:
		http.NotFound(w, r)
	}
}

// TestAggregatedAPI adds an API group that a test serves, behind a Service.
func TestAggregatedAPI(t *testing.T) {
	c := client(t)
	addr, ca := serve(t, http.HandlerFunc(fruit))
	namespace(t, c, "fruit")
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "fruit"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: 443}}}}
	if _, err := c.CoreV1().Services("fruit").Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	name, port := "https", int32(addr.Port)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "fruit-1", Labels: map[string]string{discoveryv1.LabelServiceName: "fruit"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{addr.IP.String()}}},
	}
	if _, err := c.DiscoveryV1().EndpointSlices("fruit").Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	d, err := dynamic.NewForConfig(config(t))
	if err != nil {
		t.Fatal(err)
	}
	services := d.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	registration := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
		"metadata": map[string]any{"name": "v1.fruit.example.com"},
		"spec": map[string]any{
			"group": "fruit.example.com", "version": "v1", "groupPriorityMinimum": int64(100), "versionPriority": int64(100),
			"service": map[string]any{"namespace": "fruit", "name": "fruit", "port": int64(443)},
		},
	}}
	// Its certificate is for its address, and it is asked by the Service's name: that
	// is refused, as upstream does.
	_ = unstructured.SetNestedField(registration.Object, base64.StdEncoding.EncodeToString(ca), "spec", "caBundle") // it is an object
	created, err := services.Create(t.Context(), registration, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	apples := d.Resource(schema.GroupVersionResource{Group: "fruit.example.com", Version: "v1", Resource: "apples"}).Namespace("default")
	if _, err := apples.Get(t.Context(), "red", metav1.GetOptions{}); err == nil {
		t.Error("a certificate for another name was believed")
	}
	eventually(t, "the API to be believed", func(ctx context.Context) error {
		latest, err := services.Get(ctx, created.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		unstructured.RemoveNestedField(latest.Object, "spec", "caBundle")
		_ = unstructured.SetNestedField(latest.Object, true, "spec", "insecureSkipTLSVerify") // it is an object
		_, err = services.Update(ctx, latest, metav1.UpdateOptions{})
		return err
	})
	eventually(t, "an apple", func(ctx context.Context) error {
		red, err := apples.Get(ctx, "red", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if asker, _ := red.Object["asker"].(string); asker != "system:masters" {
			return fmt.Errorf("it was asked by %q", asker)
		}
		return nil
	})
	eventually(t, "discovery of apples", func(context.Context) error {
		list, err := c.Discovery().ServerResourcesForGroupVersion("fruit.example.com/v1")
		if err == nil && (len(list.APIResources) != 1 || list.APIResources[0].Kind != "Apple") {
			err = fmt.Errorf("resources are %v", list.APIResources)
		}
		return err
	})
	if err := services.Delete(t.Context(), created.GetName(), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}
