package certificates

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// TestIssuedPodCertificates gives pods certificates that were not asked for, and
// tells times that are not theirs.
func TestIssuedPodCertificates(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	pair := func() (crypto.PublicKey, crypto.Signer) {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return public, private
	}
	own, key := pair()
	foreign, _ := pair()
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	issued := func(to crypto.PublicKey, before, after time.Time) string {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: before, NotAfter: after}
		der, err := x509.CreateCertificate(rand.Reader, template, template, to, key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	end := now.Add(2 * time.Hour)
	for _, c := range []struct {
		chain                  string
		before, after, refresh time.Time
		want                   string
	}{
		{issued(own, now, end), now, end, now.Add(time.Hour), ""},
		{"", now, end, now.Add(time.Hour), "issued certificate chain must contain at least one certificate"},
		{issued(own, now, end) + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", now, end, now.Add(time.Hour), "intermediate certificate does not parse as valid X.509"},
		{issued(foreign, now, end), now, end, now.Add(time.Hour), "leaf certificate was not issued to the requested public key"},
		{issued(own, now, end), now.Add(time.Second), end, now.Add(time.Hour), "must be set to the NotBefore time encoded in the leaf certificate"},
		{issued(own, now, end), now, end.Add(time.Hour), now.Add(time.Hour), "must be set to the NotAfter time encoded in the leaf certificate"},
		{issued(own, now.Add(-time.Hour), end), now.Add(-time.Hour), end, now.Add(time.Hour), "must be set to within 5 minutes of kube-apiserver's current time"},
		{issued(own, now, now.Add(30*time.Minute)), now, now.Add(30 * time.Minute), now.Add(15 * time.Minute), "leaf certificate lifetime must be >= 1 hour"},
		{issued(own, now, now.Add(25*time.Hour)), now, now.Add(25 * time.Hour), now.Add(time.Hour), "leaf certificate lifetime must be <= spec.maxExpirationSeconds (86400)"},
		{issued(own, now, end), now, end, now, "must be at least 10 minutes after status.notBefore"},
		{issued(own, now, end), now, end, end, "must be at least 10 minutes before status.notAfter"},
	} {
		day := int32(24 * 60 * 60)
		times := []metav1.Time{metav1.NewTime(c.before), metav1.NewTime(c.after), metav1.NewTime(c.refresh)}
		errs := validateIssued(&certificatesv1.PodCertificateRequest{
			Spec:   certificatesv1.PodCertificateRequestSpec{StubPKCS10Request: stub, MaxExpirationSeconds: &day},
			Status: certificatesv1.PodCertificateRequestStatus{CertificateChain: c.chain, NotBefore: &times[0], NotAfter: &times[1], BeginRefreshAt: &times[2]},
		}, now, field.NewPath("status"))
		if c.want == "" && len(errs) > 0 || c.want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), c.want)) {
			t.Errorf("%v, want %q", errs, c.want)
		}
	}
}
