package apiserver

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	arv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/raftstore/raftstoretest"
)

// TestAPodThatIsBoundWhileItIsDeletedEndsOnItsNode: it was on no node when the deletion
// began, and would have gone at once; it may run by now, so its node has to end it first.
func TestAPodThatIsBoundWhileItIsDeletedEndsOnItsNode(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	pods := c.CoreV1().Pods("default")
	var asked atomic.Int32
	ca := newAuthority(t)
	binds, _ := ca.serve(t, reviewer(func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		if asked.Add(1) == 1 {
			to := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: r.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
			if err := pods.Bind(t.Context(), to, metav1.CreateOptions{}); err != nil {
				t.Error(err)
			}
		}
		return &admissionv1.AdmissionResponse{Allowed: true}
	}), nil)
	some := arv1.SideEffectClassNone
	_, err := c.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), &arv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "binds"},
		Webhooks: []arv1.ValidatingWebhook{{
			Name: "binds.test.example", ClientConfig: arv1.WebhookClientConfig{URL: &binds.URL, CABundle: ca.pem()},
			Rules: []arv1.RuleWithOperations{{Operations: []arv1.OperationType{arv1.Delete},
				Rule: arv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}},
			SideEffects: &some, AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	eventually(t, "the webhook to be asked", func(ctx context.Context) (bool, error) {
		n++
		createPod(t, c, pod(fmt.Sprint("p-", n)))
		return asked.Load() > 0, pods.Delete(ctx, fmt.Sprint("p-", n), metav1.DeleteOptions{})
	})
	left, err := pods.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(left.Items) != 1 {
		t.Fatalf("%d pods are left, want the one that was bound", len(left.Items))
	}
	if p := left.Items[0]; p.Spec.NodeName != "n" || p.DeletionTimestamp == nil || p.DeletionGracePeriodSeconds == nil || *p.DeletionGracePeriodSeconds != 30 {
		t.Errorf("it is on %q, deleted at %v with %v seconds", p.Spec.NodeName, p.DeletionTimestamp, p.DeletionGracePeriodSeconds)
	}
}
