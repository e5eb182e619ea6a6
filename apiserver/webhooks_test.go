package apiserver

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	arv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"kontiki/raftstore/raftstoretest"
)

// reviewer answers admission reviews with decide.
func reviewer(decide func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		data, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(data, &review)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer := decide(review.Request)
		answer.UID = review.Request.UID
		review.Request, review.Response = nil, answer
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(review)
	}
}

func configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// tryConfigMap says what happens to a ConfigMap, without keeping it.
func tryConfigMap(ctx context.Context, c kubernetes.Interface, labels map[string]string) (*corev1.ConfigMap, error) {
	return c.CoreV1().ConfigMaps("default").Create(ctx, configMap("tried", labels), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
}

func TestWebhooks(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	ca := newAuthority(t)
	var calls atomic.Int32
	_, checkAddr := ca.serve(t, reviewer(func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		calls.Add(1)
		if strings.Contains(string(r.Object.Raw), `"color":"red"`) {
			return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "no red here"}}
		}
		return &admissionv1.AdmissionResponse{Allowed: true, Warnings: []string{"seen by check"}}
	}), nil, "check.default.svc")
	change, _ := ca.serve(t, reviewer(func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		kind := admissionv1.PatchTypeJSONPatch
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: &kind, Patch: []byte(`[{"op":"add","path":"/data","value":{"changed":"yes"}}]`)}
	}), nil)
	expose(t, c, "check", checkAddr)

	none := arv1.SideEffectClassNone
	rules := []arv1.RuleWithOperations{{Operations: []arv1.OperationType{arv1.Create}, Rule: arv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}}
	registry := c.AdmissionregistrationV1()
	_, err := registry.MutatingWebhookConfigurations().Create(t.Context(), &arv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "change"},
		Webhooks: []arv1.MutatingWebhook{{
			Name: "change.test.example", ClientConfig: arv1.WebhookClientConfig{URL: &change.URL, CABundle: ca.pem()},
			Rules: rules, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
			ObjectSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": "blue"}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = registry.ValidatingWebhookConfigurations().Create(t.Context(), &arv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "check"},
		Webhooks: []arv1.ValidatingWebhook{{
			Name:         "check.test.example",
			ClientConfig: arv1.WebhookClientConfig{CABundle: ca.pem(), Service: &arv1.ServiceReference{Namespace: "default", Name: "check"}},
			Rules:        rules, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
			MatchConditions: []arv1.MatchCondition{{Name: "not-green", Expression: "object.metadata.?labels.color.orValue('') != 'green'"}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "red is refused", func(ctx context.Context) (bool, error) {
		_, err := tryConfigMap(ctx, c, map[string]string{"color": "red"})
		return err != nil && strings.Contains(err.Error(), "no red here"), nil
	})
	eventually(t, "blue is changed", func(ctx context.Context) (bool, error) {
		cm, err := tryConfigMap(ctx, c, map[string]string{"color": "blue"})
		return err == nil && cm.Data["changed"] == "yes", nil
	})
	if cm, err := tryConfigMap(t.Context(), c, nil); err != nil || cm.Data != nil {
		t.Errorf("without a color: %v %v", cm, err)
	}
	before := calls.Load()
	if _, err := tryConfigMap(t.Context(), c, map[string]string{"color": "green"}); err != nil || calls.Load() != before {
		t.Errorf("green is not asked about, but %d calls became %d: %v", before, calls.Load(), err)
	}
	// What decides on requests cannot lock itself in.
	if err := registry.ValidatingWebhookConfigurations().Delete(t.Context(), "check", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// TestWebhookTimesOut wants failurePolicy to decide when a webhook does not.
func TestWebhookTimesOut(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	ca := newAuthority(t)
	ended := make(chan struct{})
	slow, _ := ca.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		select {
		case <-r.Context().Done():
		case <-ended:
		}
	}), nil)
	t.Cleanup(func() { close(ended) })
	none, second := arv1.SideEffectClassNone, int32(1)
	for policy, color := range map[arv1.FailurePolicyType]string{arv1.Fail: "hard", arv1.Ignore: "soft"} {
		_, err := c.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), &arv1.ValidatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: color},
			Webhooks: []arv1.ValidatingWebhook{{
				Name: color + ".test.example", ClientConfig: arv1.WebhookClientConfig{URL: &slow.URL, CABundle: ca.pem()},
				SideEffects: &none, AdmissionReviewVersions: []string{"v1"}, TimeoutSeconds: &second, FailurePolicy: &policy,
				ObjectSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": color}},
				Rules:          []arv1.RuleWithOperations{{Operations: []arv1.OperationType{arv1.Create}, Rule: arv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}},
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a silent webhook that must answer refuses", func(ctx context.Context) (bool, error) {
		_, err := tryConfigMap(ctx, c, map[string]string{"color": "hard"})
		return apierrors.IsInternalError(err) && strings.Contains(err.Error(), "failed calling webhook"), nil
	})
	if _, err := tryConfigMap(t.Context(), c, map[string]string{"color": "soft"}); err != nil {
		t.Errorf("a silent webhook that need not answer: %v", err)
	}
}

func TestPolicies(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	if _, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "limits"}, Data: map[string]string{"forbidden": "red"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	registry := c.AdmissionregistrationV1()
	const match = `matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [configmaps]}]}`
	validating := fromYAML[arv1.ValidatingAdmissionPolicy](t, `{metadata: {name: colors}, spec: {`+match+`, paramKind: {apiVersion: v1, kind: ConfigMap},
		validations: [{expression: "object.metadata.?labels.color.orValue('') != params.data.forbidden", messageExpression: "'no ' + params.data.forbidden + ' here'"}]}}`)
	if _, err := registry.ValidatingAdmissionPolicies().Create(t.Context(), validating, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := fromYAML[arv1.ValidatingAdmissionPolicyBinding](t, `{metadata: {name: colors}, spec: {policyName: colors, validationActions: [Deny],
		paramRef: {name: limits, namespace: default, parameterNotFoundAction: Deny}}}`)
	if _, err := registry.ValidatingAdmissionPolicyBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	mutating := fromYAML[arv1.MutatingAdmissionPolicy](t, `{metadata: {name: add}, spec: {`+match+`, reinvocationPolicy: Never,
		mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{metadata: Object.metadata{annotations: {'policy': 'applied'}}}"}}]}}`)
	if _, err := registry.MutatingAdmissionPolicies().Create(t.Context(), mutating, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.MutatingAdmissionPolicyBindings().Create(t.Context(), fromYAML[arv1.MutatingAdmissionPolicyBinding](t, `{metadata: {name: add}, spec: {policyName: add}}`), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var last error
	eventually(t, "a policy with a parameter refuses red", func(ctx context.Context) (bool, error) {
		_, last = tryConfigMap(ctx, c, map[string]string{"color": "red"})
		return last != nil && strings.Contains(last.Error(), "no red here"), nil
	})
	eventually(t, "a policy annotates blue", func(ctx context.Context) (bool, error) {
		var cm *corev1.ConfigMap
		cm, last = tryConfigMap(ctx, c, map[string]string{"color": "blue"})
		return last == nil && cm.Annotations["policy"] == "applied", nil
	})
}

func TestPodSecurity(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "strict", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}}}
	newNamespace(t, c, ns)
	privileged := true
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", SecurityContext: &corev1.SecurityContext{Privileged: &privileged}}}}}
	_, err := c.CoreV1().Pods("strict").Create(t.Context(), pod, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `violates PodSecurity "baseline:latest": privileged`) {
		t.Errorf("a privileged pod: %v", err)
	}
	privileged = false
	if _, err := c.CoreV1().Pods("strict").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Errorf("a plain pod: %v", err)
	}
	ns.Labels["pod-security.kubernetes.io/enforce"] = "lax"
	if _, err := c.CoreV1().Namespaces().Update(t.Context(), ns, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a level that does not exist: %v", err)
	}
}
