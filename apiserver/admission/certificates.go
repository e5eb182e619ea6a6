package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// signers asks more of who changes a CertificateSigningRequest, a
// PodCertificateRequest or a ClusterTrustBundle than RBAC alone: upstream's plugins
// CertificateApproval, CertificateSigning, CertificateSubjectRestriction and
// ClusterTrustBundleAttest, and what upstream asks where a PodCertificateRequest's
// status is written.
type signers struct {
	*admission.Handler
	authorizer authorizer.Authorizer
}

func newSigners(a authorizer.Authorizer) *signers {
	return &signers{admission.NewHandler(admission.Create, admission.Update), a}
}

// Validate implements admission.ValidationInterface.
func (s *signers) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	var err error
	switch a.GetResource().GroupResource() {
	case certificatesv1.Resource("certificatesigningrequests"):
		err = s.request(ctx, a)
	case certificatesv1.Resource("podcertificaterequests"):
		err = s.podRequest(ctx, a)
	case certificatesv1.Resource("clustertrustbundles"):
		err = s.bundle(ctx, a)
	}
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	return nil
}

func (s *signers) request(ctx context.Context, a admission.Attributes) error {
	csr, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return fmt.Errorf("expected type CertificateSigningRequest, got: %T", a.GetObject())
	}
	if a.GetOperation() == admission.Create {
		if a.GetSubresource() != "" {
			return nil
		}
		return subjects(csr)
	}
	old, ok := a.GetOldObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return fmt.Errorf("expected type CertificateSigningRequest, got: %T", a.GetOldObject())
	}
	signer := old.Spec.SignerName
	switch a.GetSubresource() {
	case "approval":
		if !s.may(ctx, a.GetUserInfo(), "approve", signer) {
			return fmt.Errorf("user not permitted to approve requests with signerName %q", signer)
		}
	case "status":
		same := reflect.DeepEqual(old.Status.Certificate, csr.Status.Certificate) && apiequality.Semantic.DeepEqual(old.Status.Conditions, csr.Status.Conditions)
		if !same && !s.may(ctx, a.GetUserInfo(), "sign", signer) {
			return fmt.Errorf("user not permitted to sign requests with signerName %q", signer)
		}
	}
	return nil
}

// podRequest: who says that a pod's request has ended speaks for its signer.
func (s *signers) podRequest(ctx context.Context, a admission.Attributes) error {
	if a.GetOperation() != admission.Update || a.GetSubresource() != "status" {
		return nil
	}
	request, ok := a.GetObject().(*certificatesv1.PodCertificateRequest)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	old, ok := a.GetOldObject().(*certificatesv1.PodCertificateRequest)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetOldObject())
	}
	signer, u := old.Spec.SignerName, a.GetUserInfo()
	if !apiequality.Semantic.DeepEqual(old.Status, request.Status) && !s.may(ctx, u, "sign", signer) {
		return fmt.Errorf("User %q is not permitted to \"sign\" for signer %q", u.GetName(), signer) //nolint:staticcheck // upstream's words
	}
	return nil
}

// subjects: nobody signs himself into the group that may do everything.
func subjects(csr *certificatesv1.CertificateSigningRequest) error {
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	request, err := parseRequest(csr.Spec.Request)
	if err != nil {
		return fmt.Errorf("failed to parse CSR: %w", err)
	}
	if slices.Contains(request.Subject.Organization, user.SystemPrivilegedGroup) {
		return fmt.Errorf("use of %s signer with %s group is not allowed", csr.Spec.SignerName, user.SystemPrivilegedGroup)
	}
	return nil
}

func parseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// bundle: who publishes what a signer's certificates are trusted by speaks for it.
func (s *signers) bundle(ctx context.Context, a admission.Attributes) error {
	bundle, ok := a.GetObject().(*certificatesv1.ClusterTrustBundle)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	if a.GetOperation() == admission.Update {
		old, ok := a.GetOldObject().(*certificatesv1.ClusterTrustBundle)
		if !ok {
			return fmt.Errorf("unexpected type %T", a.GetOldObject())
		}
		if apiequality.Semantic.DeepEqual(old.Spec, bundle.Spec) {
			return nil
		}
	}
	if name := bundle.Spec.SignerName; name != "" && !s.may(ctx, a.GetUserInfo(), "attest", name) {
		return fmt.Errorf("user not permitted to attest for signerName %q", name)
	}
	return nil
}

// may asks for a verb on the signer, or on all signers of its domain.
func (s *signers) may(ctx context.Context, u user.Info, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := s.authorizer.Authorize(ctx, authorizer.AttributesRecord{
			User: u, Verb: verb, Name: name, APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers", ResourceRequest: true,
		})
		if err == nil && decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}
