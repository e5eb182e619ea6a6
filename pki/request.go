package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// errNamesNode keeps requests from becoming a node: a URI is how the cluster's nodes
// are told apart.
var errNamesNode = errors.New("a request must not name URIs: they are the names of the cluster's own nodes")

// Requested signs what a certificate request asks for: its subject, names and key,
// for the uses and the time that the caller allows. It checks that whoever asks has
// the key; whether they may have the certificate is for the caller to know. It
// answers PEM.
func (a *Authority) Requested(request *x509.CertificateRequest, usage x509.KeyUsage, extended []x509.ExtKeyUsage, life time.Duration, now time.Time) ([]byte, error) {
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the request is not signed with its own key: %w", err)
	}
	if len(request.URIs) > 0 {
		return nil, errNamesNode
	}
	until := now.Add(life)
	if until.After(a.Cert.NotAfter) {
		until = a.Cert.NotAfter
	}
	if !until.After(now) {
		return nil, errors.New("the cluster's own certificate has run out")
	}
	der, err := a.sign(&x509.Certificate{
		SerialNumber: serial(), Subject: request.Subject,
		DNSNames: request.DNSNames, IPAddresses: request.IPAddresses, EmailAddresses: request.EmailAddresses,
		NotBefore: now.Add(-clockSlack), NotAfter: until,
		KeyUsage: usage, ExtKeyUsage: extended, BasicConstraintsValid: true,
	}, request.PublicKey)
	if err != nil {
		return nil, err
	}
	return encodeCert(der), nil
}
