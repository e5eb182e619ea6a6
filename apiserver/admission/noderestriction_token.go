package admission

import (
	"context"
	"errors"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"kontiki/apiserver/podrefs"
)

// token: a node asks for tokens of the pods that it runs, and for nobody else.
func (r *nodeRestriction) token(ctx context.Context, node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create || a.GetSubresource() != "token" {
		return nil
	}
	request, ok := a.GetObject().(*authenticationv1.TokenRequest)
	if !ok {
		return unexpected(a.GetObject())
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return errors.New("node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return errors.New("node requested token with a pod binding without a uid")
	}
	pod, err := r.stored(ctx, a.GetNamespace(), ref.Name)
	if err != nil {
		return err
	}
	if ref.UID != pod.UID {
		return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	}
	if pod.Spec.NodeName != node {
		return errors.New("node requested token bound to a pod scheduled on a different node")
	}
	return r.audience(ctx, a, request, pod)
}

// audience: a token is for whom the pod asks one, or whom an administrator has
// allowed this node to ask for.
func (r *nodeRestriction) audience(ctx context.Context, a admission.Attributes, request *authenticationv1.TokenRequest, pod *corev1.Pod) error {
	if len(request.Spec.Audiences) > 1 {
		return fmt.Errorf("node may only request 0 or 1 audiences for pod")
	}
	wanted := ""
	if len(request.Spec.Audiences) == 1 {
		wanted = request.Spec.Audiences[0]
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			if t := source.ServiceAccountToken; t != nil && t.Audience == wanted {
				return nil
			}
		}
	}
	drivers, err := r.drivers(ctx, pod)
	if err != nil {
		return err
	}
	for _, name := range drivers {
		driver, err := r.client.StorageV1().CSIDrivers().Get(ctx, name, replica)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		for _, t := range driver.Spec.TokenRequests {
			if t.Audience == wanted {
				return nil
			}
		}
	}
	decision, _, err := r.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: "request-serviceaccounts-token-audience",
		Namespace: a.GetNamespace(), APIVersion: "*", Resource: wanted, Name: a.GetName(), ResourceRequest: true,
	})
	if err != nil || decision != authorizer.DecisionAllow {
		return fmt.Errorf("audience %q not found in pod spec volume, %s is not authorized to request tokens for this audience", wanted, a.GetUserInfo().GetName())
	}
	return nil
}

// drivers are the CSI drivers of a pod's volumes.
func (r *nodeRestriction) drivers(ctx context.Context, pod *corev1.Pod) ([]string, error) {
	var names []string
	for _, v := range pod.Spec.Volumes {
		if v.CSI != nil {
			names = append(names, v.CSI.Driver)
		}
	}
	for claim := range podrefs.Claims(pod) {
		pvc, err := r.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, claim, replica)
		if apierrors.IsNotFound(err) || err == nil && pvc.Spec.VolumeName == "" {
			continue
		}
		if err != nil {
			return nil, err
		}
		pv, err := r.client.CoreV1().PersistentVolumes().Get(ctx, pvc.Spec.VolumeName, replica)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if pv.Spec.CSI != nil {
			names = append(names, pv.Spec.CSI.Driver)
		}
	}
	return names, nil
}
