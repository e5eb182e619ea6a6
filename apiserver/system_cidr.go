package apiserver

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/apiserver/allocate"
)

// Reasons and messages of the events here are those of upstream's controller of this object, as
// is the component that tells them.
const (
	// CIDREventSource is the component of events about the default ServiceCIDR.
	CIDREventSource = "kubernetes-service-cidr-controller"

	reasonCIDRError        = "KubernetesDefaultServiceCIDRError"
	reasonCIDRInconsistent = "KubernetesDefaultServiceCIDRInconsistent"
)

// cidrTold is what was told of the default ServiceCIDR already, once while a node leads.
type cidrTold struct{ inconsistent, notReady bool }

// serviceCIDR makes the ServiceCIDR of the ranges that the cluster was formed with. One that
// is there is left as it is, but for the second range if it has the first alone: who gives it
// up for another may delete it, and it is made anew when the last of its addresses is gone.
func (s *System) serviceCIDR(ctx context.Context) error {
	client := s.Client.NetworkingV1().ServiceCIDRs()
	cidr, err := client.Get(ctx, allocate.DefaultServiceCIDR, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		blank := &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: allocate.DefaultServiceCIDR},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: s.ranges()},
		}
		if cidr, err = client.Create(ctx, blank, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			s.warn(blank, reasonCIDRError, "The default ServiceCIDR can not be created")
		}
	}
	if err != nil || cidr.DeletionTimestamp != nil {
		return err
	}
	ready := meta.FindStatusCondition(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
	switch ranges := s.ranges(); {
	case len(ranges) == 2 && slices.Equal(cidr.Spec.CIDRs, ranges[:1]):
		cidr.Spec.CIDRs = ranges
		if _, err = client.Update(ctx, cidr, metav1.UpdateOptions{}); err != nil {
			s.warn(cidr, reasonCIDRError, "The default ServiceCIDR can not be upgraded from %s to dual stack %v : %v", ranges[0], ranges, err)
		}
	case !slices.Equal(cidr.Spec.CIDRs, ranges):
		if !s.told.inconsistent {
			s.warn(cidr, reasonCIDRInconsistent, "The default ServiceCIDR %v does not match the controller flag configurations %s", cidr.Spec.CIDRs, ranges)
			s.told.inconsistent = true
		}
	case ready != nil && ready.Status == metav1.ConditionFalse:
		if !s.told.notReady {
			s.warn(cidr, ready.Reason, "Configuration matches, but %s", ready.Message)
			s.told.notReady = true
		}
	case ready == nil || ready.Status == metav1.ConditionUnknown:
		meta.SetStatusCondition(&cidr.Status.Conditions, metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes default Service CIDR is ready",
		})
		if _, err = client.UpdateStatus(ctx, cidr, metav1.UpdateOptions{}); err != nil {
			s.warn(cidr, reasonCIDRError, "The default ServiceCIDR Status can not be set to Ready=True")
		}
	}
	return err
}

func (s *System) warn(cidr *networkingv1.ServiceCIDR, reason, message string, args ...any) {
	if s.Events != nil {
		s.Events.Eventf(cidr, corev1.EventTypeWarning, reason, message, args...)
	}
}

func (s *System) ranges() []string {
	var all []string
	for _, r := range (Settings{ServiceCIDR: s.ServiceCIDR, SecondaryServiceCIDR: s.SecondaryServiceCIDR}).serviceCIDRs() {
		all = append(all, r.Masked().String())
	}
	return all
}
