package csr

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
)

// How long requests are kept, as upstream: those that were answered, and those that
// nobody answered.
const (
	answeredLife = time.Hour
	pendingLife  = 24 * time.Hour
)

// How long certificates live: what is asked for, within these.
const (
	shortest = 10 * time.Minute
	longest  = 365 * 24 * time.Hour
)

// actions is what to do with a request: one of remove, sign and fail, or nothing.
type actions struct {
	remove bool
	sign   *order
	fail   error         // why it cannot be signed
	again  time.Duration // when it has to be looked at again by time alone
}

// order is a certificate to be made.
type order struct {
	request  *x509.CertificateRequest
	usage    x509.KeyUsage
	extended []x509.ExtKeyUsage
	life     time.Duration
}

// plan decides about one request.
func plan(csr *certificatesv1.CertificateSigningRequest, now time.Time) actions {
	at, expires := expiry(csr)
	if expires && !at.After(now) {
		return actions{remove: true}
	}
	a := actions{}
	if expires {
		a.again = at.Sub(now)
	}
	check, ours := signers[csr.Spec.SignerName]
	if !ours || len(csr.Status.Certificate) > 0 || !has(csr, certificatesv1.CertificateApproved) || has(csr, certificatesv1.CertificateDenied) || has(csr, certificatesv1.CertificateFailed) {
		return a
	}
	request, err := parse(csr.Spec.Request)
	if err == nil {
		err = check(request, csr.Spec.Usages)
	}
	if err != nil {
		a.fail = err
		return a
	}
	usage, extended, err := keyUsages(csr.Spec.Usages)
	if err != nil {
		a.fail = err
		return a
	}
	life := longest
	if asked := csr.Spec.ExpirationSeconds; asked != nil {
		life = min(max(time.Duration(*asked)*time.Second, shortest), longest)
	}
	a.sign = &order{request, usage, extended, life}
	return a
}

func condition(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	for i := range csr.Status.Conditions {
		if csr.Status.Conditions[i].Type == kind {
			return &csr.Status.Conditions[i]
		}
	}
	return nil
}

func has(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	c := condition(csr, kind)
	return c != nil && c.Status != corev1.ConditionFalse
}

// expiry is when the request is of no more use to anybody.
func expiry(csr *certificatesv1.CertificateSigningRequest) (at time.Time, expires bool) {
	for _, kind := range []certificatesv1.RequestConditionType{certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		if has(csr, kind) {
			return condition(csr, kind).LastUpdateTime.Add(answeredLife), true
		}
	}
	if has(csr, certificatesv1.CertificateApproved) {
		if len(csr.Status.Certificate) == 0 {
			return condition(csr, certificatesv1.CertificateApproved).LastUpdateTime.Add(pendingLife), true
		}
		at = condition(csr, certificatesv1.CertificateApproved).LastUpdateTime.Add(answeredLife)
		if block, _ := pem.Decode(csr.Status.Certificate); block != nil {
			if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.NotAfter.Before(at) {
				at = cert.NotAfter
			}
		}
		return at, true
	}
	return csr.CreationTimestamp.Add(pendingLife), true
}

func parse(raw []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// signers are those whose certificates the cluster's authority makes, with what each
// may be asked for.
var signers = map[string]func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error{
	certificatesv1.KubeAPIServerClientSignerName:        userClient,
	certificatesv1.KubeAPIServerClientKubeletSignerName: nodeClient,
	certificatesv1.KubeletServingSignerName:             nodeServing,
}

func userClient(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if len(request.URIs) > 0 {
		return errors.New("URI subjectAltNames are not allowed") // they name nodes here; upstream allows them
	}
	client := false
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageClientAuth:
			client = true
		case certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment: // as one likes
		default:
			return fmt.Errorf("invalid usage for client certificate: %s", u)
		}
	}
	if !client {
		return fmt.Errorf("missing required usage for client certificate: %s", certificatesv1.UsageClientAuth)
	}
	return nil
}

func nodeClient(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := ofNode(request); err != nil {
		return err
	}
	switch {
	case len(request.DNSNames) > 0:
		return errors.New("DNS subjectAltNames are not allowed")
	case len(request.EmailAddresses) > 0:
		return errors.New("email subjectAltNames are not allowed")
	case len(request.IPAddresses) > 0:
		return errors.New("IP subjectAltNames are not allowed")
	case len(request.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	return uses(usages, certificatesv1.UsageClientAuth)
}

func nodeServing(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := ofNode(request); err != nil {
		return err
	}
	switch {
	case len(request.DNSNames)+len(request.IPAddresses) == 0:
		return errors.New("DNS or IP subjectAltName is required")
	case len(request.EmailAddresses) > 0:
		return errors.New("email subjectAltNames are not allowed")
	case len(request.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	return uses(usages, certificatesv1.UsageServerAuth)
}

func ofNode(request *x509.CertificateRequest) error {
	if !slices.Equal(request.Subject.Organization, []string{"system:nodes"}) {
		return errors.New("subject organization is not system:nodes")
	}
	if !strings.HasPrefix(request.Subject.CommonName, "system:node:") {
		return errors.New("subject common name does not begin with system:node: ")
	}
	return nil
}

// uses says whether what is asked for is the one use and signing, and enciphering keys where
// the kind of key can.
func uses(usages []certificatesv1.KeyUsage, one certificatesv1.KeyUsage) error {
	wanted := []certificatesv1.KeyUsage{one, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment}
	slices.Sort(wanted)
	asked := slices.Compact(slices.Sorted(slices.Values(usages)))
	without := slices.DeleteFunc(slices.Clone(wanted), func(u certificatesv1.KeyUsage) bool { return u == certificatesv1.UsageKeyEncipherment })
	if !slices.Equal(asked, wanted) && !slices.Equal(asked, without) {
		return fmt.Errorf("usages did not match %v", wanted)
	}
	return nil
}

func keyUsages(usages []certificatesv1.KeyUsage) (usage x509.KeyUsage, extended []x509.ExtKeyUsage, err error) {
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageDigitalSignature:
			usage |= x509.KeyUsageDigitalSignature
		case certificatesv1.UsageKeyEncipherment:
			usage |= x509.KeyUsageKeyEncipherment
		case certificatesv1.UsageClientAuth:
			extended = append(extended, x509.ExtKeyUsageClientAuth)
		case certificatesv1.UsageServerAuth:
			extended = append(extended, x509.ExtKeyUsageServerAuth)
		default:
			return 0, nil, fmt.Errorf("unrecognized usage %q", u)
		}
	}
	return usage, extended, nil
}
