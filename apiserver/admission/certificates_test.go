package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// TestSigners wants a verb on the signer from who approves, signs or attests.
func TestSigners(t *testing.T) {
	allowed := map[string]bool{"approve example.com/*": true, "sign example.com/one": true, "attest example.com/one": true}
	s := newSigners(authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if a.GetResource() == "signers" && allowed[a.GetVerb()+" "+a.GetName()] {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	}))
	csr := func(signer, certificate string) *certificatesv1.CertificateSigningRequest {
		return &certificatesv1.CertificateSigningRequest{
			Spec:   certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Request: request(t, user.SystemPrivilegedGroup)},
			Status: certificatesv1.CertificateSigningRequestStatus{Certificate: []byte(certificate)},
		}
	}
	bundle := func(signer string) *certificatesv1.ClusterTrustBundle {
		return &certificatesv1.ClusterTrustBundle{Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer}}
	}
	podRequest := func(signer, chain string) *certificatesv1.PodCertificateRequest {
		return &certificatesv1.PodCertificateRequest{
			Spec:   certificatesv1.PodCertificateRequestSpec{SignerName: signer},
			Status: certificatesv1.PodCertificateRequestStatus{CertificateChain: chain},
		}
	}
	const one, other = "example.com/one", "example.org/other"
	for _, c := range []struct {
		obj, old              runtime.Object
		resource, subresource string
		want                  string
	}{
		{csr(one, ""), csr(one, ""), "certificatesigningrequests", "approval", ""},
		{csr(other, ""), csr(other, ""), "certificatesigningrequests", "approval", `user not permitted to approve requests with signerName "example.org/other"`},
		{csr(one, "x"), csr(one, ""), "certificatesigningrequests", "status", ""},
		{csr(other, ""), csr(other, ""), "certificatesigningrequests", "status", ""},
		{csr(other, "x"), csr(other, ""), "certificatesigningrequests", "status", `user not permitted to sign requests with signerName "example.org/other"`},
		{csr(one, ""), nil, "certificatesigningrequests", "", ""},
		{csr(certificatesv1.KubeAPIServerClientSignerName, ""), nil, "certificatesigningrequests", "", "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"},
		{podRequest(one, "x"), podRequest(one, ""), "podcertificaterequests", "status", ""},
		{podRequest(other, ""), podRequest(other, ""), "podcertificaterequests", "status", ""},
		{podRequest(other, "x"), podRequest(other, ""), "podcertificaterequests", "status", `User "jane" is not permitted to "sign" for signer "example.org/other"`},
		{podRequest(other, ""), nil, "podcertificaterequests", "", ""},
		{bundle(one), nil, "clustertrustbundles", "", ""},
		{bundle(""), nil, "clustertrustbundles", "", ""},
		{bundle(other), nil, "clustertrustbundles", "", `user not permitted to attest for signerName "example.org/other"`},
		{bundle(other), bundle(other), "clustertrustbundles", "", ""},
	} {
		op := admission.Update
		if c.old == nil {
			op = admission.Create
		}
		a := admission.NewAttributesRecord(c.obj, c.old, certificatesv1.SchemeGroupVersion.WithKind("X"), "", "x",
			certificatesv1.SchemeGroupVersion.WithResource(c.resource), c.subresource, op, nil, false, &user.DefaultInfo{Name: "jane"})
		err := s.Validate(t.Context(), a, nil)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s/%s: %v, want %q", op, c.resource, c.subresource, err, c.want)
		}
	}
}

func request(t *testing.T, groups ...string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane", Organization: groups}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}
