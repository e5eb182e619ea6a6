package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"
)

func TestFrontProxyIsTheSameEverywhere(t *testing.T) {
	trust, err := NewTrust("cluster", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	one, err := trust.Authority.FrontProxy()
	if err != nil {
		t.Fatal(err)
	}
	again, err := trust.Authority.FrontProxy()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.CertPEM(), again.CertPEM()) {
		t.Error("one cluster has two front-proxy authorities")
	}
	certPEM, _, err := one.Client(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(certPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(again.Cert)
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: usage}); err != nil {
		t.Error(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: trust.Authority.Pool(), KeyUsages: usage}); err == nil {
		t.Error("the cluster's authority accepts a front proxy's certificate")
	}
	if cert.Subject.CommonName != FrontProxyUser {
		t.Errorf("signed for %s", cert.Subject.CommonName)
	}
}
