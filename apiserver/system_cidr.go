package apiserver

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/apiserver/allocate"
)

// serviceCIDR makes the ServiceCIDR of the ranges that the cluster was formed with. One that
// is there is left as it is: who gives it up for another may delete it, and it is made anew
// when the last of its addresses is gone.
func (s *System) serviceCIDR(ctx context.Context) error {
	client := s.Client.NetworkingV1().ServiceCIDRs()
	cidr, err := client.Get(ctx, allocate.DefaultServiceCIDR, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		cidr, err = client.Create(ctx, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: allocate.DefaultServiceCIDR},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: s.ranges()},
		}, metav1.CreateOptions{})
	}
	if err != nil || cidr.DeletionTimestamp != nil || meta.FindStatusCondition(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady) != nil {
		return err
	}
	meta.SetStatusCondition(&cidr.Status.Conditions, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes default Service CIDR is ready",
	})
	_, err = client.UpdateStatus(ctx, cidr, metav1.UpdateOptions{})
	return err
}

func (s *System) ranges() []string {
	var all []string
	for _, r := range (Settings{ServiceCIDR: s.ServiceCIDR, SecondaryServiceCIDR: s.SecondaryServiceCIDR}).serviceCIDRs() {
		all = append(all, r.Masked().String())
	}
	return all
}
