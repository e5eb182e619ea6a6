package controllers

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func ipAddress(name string, ref networkingv1.ParentReference) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: "of-before", Labels: map[string]string{
			networkingv1.LabelManagedBy: "ipallocator.k8s.io", networkingv1.LabelIPAddressFamily: "IPv4",
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &ref},
	}
}

func serviceAt(name, ip string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}},
	}
}

// TestIPAddressesAreRepaired begins with what users and earlier versions can leave.
func TestIPAddressesAreRepaired(t *testing.T) {
	of := func(name string) networkingv1.ParentReference {
		return networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: name}
	}
	gateway := ipAddress("10.43.0.9", networkingv1.ParentReference{Group: "gateway.networking.k8s.io", Resource: "gateways", Name: "g"})
	gateway.Labels = nil
	c := newCluster(t, node("a"),
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.43.0.0/16"}}},
		serviceAt("without", "10.43.0.5"), serviceAt("another", "10.43.0.6"), serviceAt("fine", "10.43.0.7"),
		ipAddress("10.43.0.6", of("gone")), ipAddress("10.43.0.7", of("fine")), ipAddress("10.43.0.8", of("gone")), gateway)
	c.start()
	ctx := context.Background()
	refersTo := func(ip, name string) func() bool {
		return func() bool {
			a, err := c.NetworkingV1().IPAddresses().Get(ctx, ip, metav1.GetOptions{})
			return err == nil && *a.Spec.ParentRef == of(name) && a.Labels[networkingv1.LabelManagedBy] == "ipallocator.k8s.io" && a.Labels[networkingv1.LabelIPAddressFamily] == "IPv4"
		}
	}
	c.eventually("the IPAddress that a Service lacks is made", refersTo("10.43.0.5", "without"))
	c.eventually("one that refers to another Service is made anew", refersTo("10.43.0.6", "another"))
	c.eventually("one without a Service goes", func() bool {
		_, err := c.NetworkingV1().IPAddresses().Get(ctx, "10.43.0.8", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	c.eventually("it is told", func() bool {
		list, err := c.CoreV1().Events("").List(ctx, metav1.ListOptions{})
		told := map[string]bool{}
		for _, e := range list.Items {
			told[e.InvolvedObject.Name+" "+e.Reason] = true
		}
		return err == nil && told["without ClusterIPNotAllocated"] && told["another ClusterIPNotAllocated"] && told["10.43.0.8 IPAddressNotAllocated"]
	})
	for _, ip := range []string{"10.43.0.7", "10.43.0.9"} {
		if a, err := c.NetworkingV1().IPAddresses().Get(ctx, ip, metav1.GetOptions{}); err != nil || a.UID != "of-before" {
			t.Errorf("%s is not the one there was: %v", ip, err)
		}
	}
}

// TestServiceCIDRGoesWithItsLastAddress deletes a range in which there is an address.
func TestServiceCIDRGoesWithItsLastAddress(t *testing.T) {
	const finalizer = "networking.k8s.io/service-cidr-finalizer"
	ctx := context.Background()
	c := newCluster(t, node("a"),
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "further"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.50.0.0/24"}}},
		serviceAt("s", "10.50.0.5"), ipAddress("10.50.0.5", networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "s"}))
	c.start()
	get := func() *networkingv1.ServiceCIDR {
		cidr, err := c.NetworkingV1().ServiceCIDRs().Get(ctx, "further", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return cidr
	}
	c.eventually("the range is kept and ready", func() bool {
		cidr := get()
		return slices.Contains(cidr.Finalizers, finalizer) && meta.IsStatusConditionTrue(cidr.Status.Conditions, "Ready")
	})
	deleted := get()
	deleted.DeletionTimestamp = ptr.To(metav1.Now()) // the fake API keeps no finalizers' promises
	if _, err := c.NetworkingV1().ServiceCIDRs().Update(ctx, deleted, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("it waits, and says why", func() bool {
		is := meta.FindStatusCondition(get().Status.Conditions, "Ready")
		return is.Status == metav1.ConditionFalse && is.Reason == "Terminating" && slices.Contains(get().Finalizers, finalizer)
	})
	if err := c.CoreV1().Services("default").Delete(ctx, "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// Its IPAddress is left behind here, which is repaired; then nothing holds the range.
	c.eventually("it is let go", func() bool {
		cidr, err := c.NetworkingV1().ServiceCIDRs().Get(ctx, "further", metav1.GetOptions{})
		return apierrors.IsNotFound(err) || err == nil && !slices.Contains(cidr.Finalizers, finalizer)
	})
}

// TestAnAddressThatSomebodyKeeps: an IPAddress that refers to another Service and is kept from going
// is waited for; once it is gone, the Service that has the address gets its own.
func TestAnAddressThatSomebodyKeeps(t *testing.T) {
	ctx := context.Background()
	kept := ipAddress("10.43.0.7", networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "gone"})
	kept.UID, kept.Finalizers, kept.DeletionTimestamp = "of-before", []string{"example.com/kept"}, ptr.To(metav1.Now())
	c := newCluster(t, node("a"),
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.43.0.0/16"}}},
		serviceAt("s", "10.43.0.7"), serviceAt("lacks", "10.43.0.8"), kept)
	c.start()
	made := func(ip, service string) func() bool {
		return func() bool {
			a, err := c.NetworkingV1().IPAddresses().Get(ctx, ip, metav1.GetOptions{})
			return err == nil && a.UID != "of-before" && a.Spec.ParentRef.Name == service
		}
	}
	c.eventually("what is missing is made", made("10.43.0.8", "lacks"))
	if err := c.NetworkingV1().IPAddresses().Delete(ctx, "10.43.0.7", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("so is what had to wait", made("10.43.0.7", "s"))
}
