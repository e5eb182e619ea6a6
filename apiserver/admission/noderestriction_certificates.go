package admission

import (
	"context"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// passing is a refusal for what this node's replica may not know yet. It is not told
// as Forbidden: another try may succeed.
type passing struct{ error }

// Unwrap shows what errors.As looks for.
func (p passing) Unwrap() error { return p.error }

// signingRequest: a node asks for no other node's certificate.
func signingRequest(node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create {
		return nil
	}
	csr, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return unexpected(a.GetObject())
	}
	switch csr.Spec.SignerName {
	case certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName:
	default:
		return nil
	}
	request, err := parseRequest(csr.Spec.Request)
	if err != nil {
		return fmt.Errorf("unable to parse csr: %w", err)
	}
	if request.Subject.CommonName != "system:node:"+node {
		return fmt.Errorf("can only create a node CSR with CN=system:node:%s", node)
	}
	return nil
}

// podCertificate: a node asks for certificates of the pods that it runs, from the
// signers that they name.
func (r *nodeRestriction) podCertificate(ctx context.Context, node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create {
		return fmt.Errorf("unexpected operation %v", a.GetOperation())
	}
	if a.GetSubresource() != "" {
		return fmt.Errorf("unexpected subresource %v", a.GetSubresource())
	}
	request, ok := a.GetObject().(*certificatesv1.PodCertificateRequest)
	if !ok {
		return unexpected(a.GetObject())
	}
	spec := &request.Spec
	if string(spec.NodeName) != node {
		return fmt.Errorf("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", spec.NodeName, node)
	}
	name := a.GetNamespace() + "/" + spec.PodName
	object, err := r.client.CoreV1().Nodes().Get(ctx, node, replica)
	if err != nil {
		return passing{fmt.Errorf("while retrieving node %q named in the PodCertificateRequest: %w", node, err)}
	}
	if object.UID != spec.NodeUID {
		return passing{fmt.Errorf("PodCertificateRequest for pod %q names node UID %q, inconsistent with the running node (%q)", name, spec.NodeUID, object.UID)}
	}
	pod, err := r.certified(ctx, node, a.GetNamespace(), spec)
	if err != nil {
		return err
	}
	return r.signer(ctx, a, spec, pod)
}

// certified is the pod that a request is for, if all that the request says of it is so.
func (r *nodeRestriction) certified(ctx context.Context, node, namespace string, spec *certificatesv1.PodCertificateRequestSpec) (*corev1.Pod, error) {
	name := namespace + "/" + spec.PodName
	pod, err := r.stored(ctx, namespace, spec.PodName)
	if err != nil {
		return nil, passing{fmt.Errorf("while retrieving pod %q named in the PodCertificateRequest: %w", name, err)}
	}
	switch {
	case spec.PodUID != pod.UID:
		return nil, passing{fmt.Errorf("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", name, spec.PodUID, pod.UID)}
	case pod.Spec.NodeName != node:
		return nil, fmt.Errorf("pod %q is not running on node %q named in the PodCertificateRequest", name, node)
	case mirrored(pod):
		return nil, fmt.Errorf("pod %q is a mirror pod", name)
	case spec.ServiceAccountName != pod.Spec.ServiceAccountName:
		return nil, fmt.Errorf("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", name, spec.ServiceAccountName, pod.Spec.ServiceAccountName)
	}
	account, err := r.client.CoreV1().ServiceAccounts(namespace).Get(ctx, spec.ServiceAccountName, replica)
	if err != nil {
		return nil, passing{fmt.Errorf("while retrieving service account %q named in the PodCertificateRequest: %w", namespace+"/"+spec.ServiceAccountName, err)}
	}
	if spec.ServiceAccountUID != account.UID {
		return nil, passing{fmt.Errorf("PodCertificateRequest for pod %q names service account UID %q, which differs from the running service account (%q)", name, spec.ServiceAccountUID, account.UID)}
	}
	return pod, nil
}

// signer: the pod names it in a volume, or an administrator has allowed this node to
// ask it. RBAC's resources have no slashes, so the signer's are colons there.
func (r *nodeRestriction) signer(ctx context.Context, a admission.Attributes, spec *certificatesv1.PodCertificateRequestSpec, pod *corev1.Pod) error {
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			if c := source.PodCertificate; c != nil && c.SignerName == spec.SignerName {
				return nil
			}
		}
	}
	decision, _, err := r.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: "request-serviceaccounts-podcertificate-signer",
		APIGroup: a.GetResource().Group, APIVersion: a.GetResource().Version, Resource: strings.ReplaceAll(spec.SignerName, "/", ":"),
		Namespace: a.GetNamespace(), Name: spec.ServiceAccountName, ResourceRequest: true,
	})
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		return fmt.Errorf("error authorizing %s to request podcertificaterequests for signer %q: %w", a.GetUserInfo().GetName(), spec.SignerName, err)
	}
	return fmt.Errorf("pod %q does not mount a podCertificate projected volume for signer %q", a.GetNamespace()+"/"+spec.PodName, spec.SignerName)
}
