package apiserver

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// defaultServiceCIDR is the name of the object that tells where the addresses of
// Services come from, upstream's.
const defaultServiceCIDR = "kubernetes"

// serviceCIDR shows the range that the cluster was formed with, and that it is in use.
// A ready one is what clients look for; the range itself is not read from it.
func (s *System) serviceCIDR(ctx context.Context) error {
	client := s.Client.NetworkingV1().ServiceCIDRs()
	cidr, err := client.Get(ctx, defaultServiceCIDR, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		cidr, err = client.Create(ctx, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: defaultServiceCIDR},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{s.ServiceCIDR.Masked().String()}},
		}, metav1.CreateOptions{})
	}
	if err != nil || meta.IsStatusConditionTrue(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
		return err
	}
	meta.SetStatusCondition(&cidr.Status.Conditions, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes default Service CIDR is ready",
	})
	_, err = client.UpdateStatus(ctx, cidr, metav1.UpdateOptions{})
	return err
}
