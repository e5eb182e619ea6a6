package acceptance

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestServiceCIDRs adds a range for Services, takes an address of it, has the IPAddress come
// back that was removed by hand, and lets the range go once it is empty.
func TestServiceCIDRs(t *testing.T) {
	c := newCluster(t, "cidr", 3)
	client := c.client(t, c.Hosts()[1])
	ranges, addresses, services := client.NetworkingV1().ServiceCIDRs(), client.NetworkingV1().IPAddresses(), client.CoreV1().Services("default")
	further := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "further"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.99.0.0/24"}}}
	if _, err := ranges.Create(t.Context(), further, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ready := func(want metav1.ConditionStatus) func(context.Context) error {
		return func(ctx context.Context) error {
			cidr, err := ranges.Get(ctx, "further", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if is := meta.FindStatusCondition(cidr.Status.Conditions, "Ready"); is == nil || is.Status != want || len(cidr.Finalizers) != 1 {
				return fmt.Errorf("it is %+v", cidr)
			}
			return nil
		}
	}
	c.eventually(t, "the range to be ready", ready(metav1.ConditionTrue))
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "s"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.99.0.7", Ports: []corev1.ServicePort{{Port: 80}}},
	}
	if _, err := services.Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	shown, err := addresses.Get(t.Context(), "10.99.0.7", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := addresses.Delete(t.Context(), "10.99.0.7", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually(t, "the IPAddress to come back", func(ctx context.Context) error {
		again, err := addresses.Get(ctx, "10.99.0.7", metav1.GetOptions{})
		if err == nil && (again.UID == shown.UID || *again.Spec.ParentRef != *shown.Spec.ParentRef) {
			return fmt.Errorf("it is %+v", again)
		}
		return err
	})
	if err := ranges.Delete(t.Context(), "further", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually(t, "the range to wait for its address", ready(metav1.ConditionFalse))
	if err := services.Delete(t.Context(), "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually(t, "the range and the IPAddress to be gone", func(ctx context.Context) error {
		if _, err := addresses.Get(ctx, "10.99.0.7", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the IPAddress: %w", err)
		}
		if _, err := ranges.Get(ctx, "further", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the range: %w", err)
		}
		return nil
	})
	// Every address in use is shown, also those that the cluster began with.
	list, err := services.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list.Items {
		if _, err := addresses.Get(t.Context(), s.Spec.ClusterIP, metav1.GetOptions{}); s.Spec.ClusterIP != corev1.ClusterIPNone && err != nil {
			t.Errorf("%s at %s: %v", s.Name, s.Spec.ClusterIP, err)
		}
	}
}
