package certificates

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/mail"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What a pod's certificate keeps to.
const (
	longestChain  = 100 << 10
	shortestLife  = time.Hour
	refreshMargin = 10 * time.Minute
	closeToNow    = 5 * time.Minute
)

// validateIssued compares what a signer has issued with what was asked for, and what
// it says of the certificate with the certificate.
func validateIssued(r *certificatesv1.PodCertificateRequest, now time.Time, at *field.Path) field.ErrorList {
	chain, text := at.Child("certificateChain"), r.Status.CertificateChain
	if len(text) > longestChain {
		return field.ErrorList{field.TooLong(chain, text, longestChain)}
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil {
		return field.ErrorList{field.Invalid(chain, text, "issued certificate chain must contain at least one certificate")}
	}
	if block.Type != "CERTIFICATE" {
		return field.ErrorList{field.Invalid(chain, text, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks")}
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return field.ErrorList{field.Invalid(chain, text, "leaf certificate does not parse as valid X.509")}
	}
	errs := leafNames(leaf, chain)
	request, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
	if err != nil {
		return append(errs, field.Invalid(field.NewPath("spec", "stubPKCS10Request"), field.OmitValueType{}, "must be a valid PKCS#10 CSR"))
	}
	key, ok := request.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !key.Equal(leaf.PublicKey) {
		return append(errs, field.Invalid(chain, text, "leaf certificate was not issued to the requested public key"))
	}
	for _, t := range []struct {
		name string
		at   *metav1.Time
		why  string
	}{
		{"notBefore", r.Status.NotBefore, "must be present and consistent with the issued certificate"},
		{"notAfter", r.Status.NotAfter, "must be present and consistent with the issued certificate"},
		{"beginRefreshAt", r.Status.BeginRefreshAt, "must be present and in the range [notbefore+10min, notafter-10min]"},
	} {
		if t.at == nil {
			errs = append(errs, field.Required(at.Child(t.name), t.why))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if err := issuedTimes(r, leaf, now, at); err != nil {
		return field.ErrorList{err}
	}
	return intermediates(rest, text, chain)
}

// leafNames refuses names that nobody could use.
func leafNames(leaf *x509.Certificate, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range leaf.DNSNames {
		if name == "" {
			errs = append(errs, field.Invalid(at, name, "leaf certificate should not contain empty DNSName"))
		}
		if strings.Contains(name, "..") {
			errs = append(errs, field.Invalid(at, name, "leaf certificate's DNSName should not contain '..'"))
		}
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") {
			errs = append(errs, field.Invalid(at, name, "leaf certificate's DNSName should not start or end with '.'"))
		}
	}
	for _, address := range leaf.EmailAddresses {
		if _, err := mail.ParseAddress(address); err != nil {
			errs = append(errs, field.Invalid(at, address, "leaf certificate should not contain invalid EmailAddress"))
		}
	}
	return errs
}

// issuedTimes wants the status to tell the certificate's times, and these to be what
// the request and the clock allow.
func issuedTimes(r *certificatesv1.PodCertificateRequest, leaf *x509.Certificate, now time.Time, at *field.Path) *field.Error {
	before, after, refresh := r.Status.NotBefore.Time, r.Status.NotAfter.Time, r.Status.BeginRefreshAt.Time
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	switch {
	case !before.Equal(leaf.NotBefore):
		return field.Invalid(at.Child("notBefore"), before, "must be set to the NotBefore time encoded in the leaf certificate")
	case before.Sub(now).Abs() >= closeToNow:
		return field.Invalid(at.Child("notBefore"), before, "must be set to within 5 minutes of kube-apiserver's current time")
	case !after.Equal(leaf.NotAfter):
		return field.Invalid(at.Child("notAfter"), after, "must be set to the NotAfter time encoded in the leaf certificate")
	case life < shortestLife:
		return field.Invalid(at.Child("certificateChain"), life, "leaf certificate lifetime must be >= 1 hour")
	case life > time.Duration(*r.Spec.MaxExpirationSeconds)*time.Second:
		return field.Invalid(at.Child("certificateChain"), life, fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%v)", *r.Spec.MaxExpirationSeconds))
	case refresh.Before(before.Add(refreshMargin)):
		return field.Invalid(at.Child("beginRefreshAt"), refresh, "must be at least 10 minutes after status.notBefore")
	case refresh.After(after.Add(-refreshMargin)):
		return field.Invalid(at.Child("beginRefreshAt"), refresh, "must be at least 10 minutes before status.notAfter")
	}
	return nil
}

// intermediates are certificates; whether they lead anywhere is for who trusts them.
func intermediates(rest []byte, text string, at *field.Path) field.ErrorList {
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil
		}
		if block.Type != "CERTIFICATE" {
			return field.ErrorList{field.Invalid(at, text, "issued certificate chain must consist entirely of CERTFICATE PEM blocks")}
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return field.ErrorList{field.Invalid(at, text, "intermediate certificate does not parse as valid X.509")}
		}
	}
}
