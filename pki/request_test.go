package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net/url"
	"testing"
	"time"
)

func TestARequestIsSignedForWhatIsAllowed(t *testing.T) {
	now := time.Now()
	authority, err := newAuthority("test", now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane", Organization: []string{"dev"}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := authority.Requested(request, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(signed)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: authority.Pool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if cert.IsCA || cert.Subject.CommonName != "jane" || cert.NotAfter.After(now.Add(time.Hour+time.Second)) {
		t.Errorf("signed was %v until %v, CA %v", cert.Subject, cert.NotAfter, cert.IsCA)
	}
	named := *request
	named.URIs = []*url.URL{{Scheme: "kontiki", Host: "node"}}
	if _, err := authority.Requested(&named, 0, nil, time.Hour, now); !errors.Is(err, errNamesNode) {
		t.Errorf("a request that names a node: %v", err)
	}
	request.Signature[4] ^= 1
	if _, err := authority.Requested(request, 0, nil, time.Hour, now); err == nil {
		t.Error("a request that its key did not sign was granted")
	}
}
