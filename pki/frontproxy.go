package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// FrontProxyUser is the name by which aggregated API servers know that a request
// comes from an API server of this cluster, which has authenticated its user.
const FrontProxyUser = "kontiki-front-proxy"

// FrontProxy is the authority of the certificates with which API servers call
// aggregated API servers. It is another than the cluster's: whoever holds its
// certificate may speak for any user there, and no user's certificate may do that.
//
// Its key is derived from the cluster's CA key and its signature is deterministic,
// so every replica has the same authority, and none is stored.
type FrontProxy struct {
	Cert *x509.Certificate
	key  ed25519.PrivateKey
}

// FrontProxy returns the front-proxy authority of a's cluster.
func (a *Authority) FrontProxy() (*FrontProxy, error) {
	secret, err := marshalKey(a.key)
	if err != nil {
		return nil, err
	}
	seed, err := hkdf.Key(sha256.New, secret, []byte(a.ClusterID), "kontiki front-proxy v1", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	key := ed25519.NewKeyFromSeed(seed)
	public := key.Public().(ed25519.PublicKey)
	number := sha256.Sum256(public)
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(number[:15]),
		Subject:               pkix.Name{CommonName: "kontiki-front-proxy-ca", Organization: []string{a.ClusterID}},
		NotBefore:             a.Cert.NotBefore,
		NotAfter:              a.Cert.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		return nil, fmt.Errorf("make the front-proxy authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &FrontProxy{Cert: cert, key: key}, nil
}

// CertPEM is the authority's certificate as PEM.
func (f *FrontProxy) CertPEM() []byte { return encodeCert(f.Cert.Raw) }

// Client signs the certificate of an API server, with a key of its own; both are
// PEM. It lives as long as the authority: who can read it can derive the
// authority's key as well, so that renewing it would protect nothing.
func (f *FrontProxy) Client(now time.Time) (cert, key []byte, err error) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := leaf(FrontProxyUser, nil, now)
	template.NotAfter = f.Cert.NotAfter
	der, err := x509.CreateCertificate(rand.Reader, template, f.Cert, signer.Public(), f.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign the front proxy's certificate: %w", err)
	}
	key, err = marshalKey(signer)
	return encodeCert(der), key, err
}
