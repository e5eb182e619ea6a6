package pki

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"time"
)

const (
	caLife     = 20 * 365 * 24 * time.Hour
	leafLife   = 365 * 24 * time.Hour
	clockSlack = time.Hour // certificates are valid this long before they are made: clocks differ
)

// Authority is the certificate authority of a cluster: it signs the certificates
// of nodes and users. Every replica holds it, so every node renews its own.
type Authority struct {
	ClusterID string
	Cert      *x509.Certificate
	key       crypto.Signer
	epoch     string // see InEpoch
}

// newAuthority makes an authority. It is done once in the life of a cluster.
func newAuthority(clusterID string, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "kontiki-ca", Organization: []string{clusterID}},
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's certificate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{ClusterID: clusterID, Cert: cert, key: key}, nil
}

// Pool holds the authority's certificate alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	return pool
}

// CertPEM is the authority's certificate as PEM.
func (a *Authority) CertPEM() []byte { return encodeCert(a.Cert.Raw) }

// ErrEpoch is wrapped when a node's certificate is of another epoch of the cluster.
var ErrEpoch = errors.New("it belongs to another epoch of the cluster")

// InEpoch is the authority as the members of an epoch use it: the certificates of nodes
// that it signs are of that epoch, and so must be those that it verifies.
func (a *Authority) InEpoch(epoch string) *Authority {
	out := *a
	out.epoch = epoch
	return &out
}

// Node signs the certificate with which a node serves and dials: user
// system:node:NAME in group system:nodes, a URI that carries cluster id, epoch and node
// id, and the given names and addresses.
func (a *Authority) Node(id Identity, name string, names []string, addrs []netip.Addr, now time.Time) (tls.Certificate, error) {
	template := leaf("system:node:"+name, []string{"system:nodes"}, now)
	template.DNSNames = append([]string{name}, names...)
	for _, addr := range addrs {
		template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
	}
	template.URIs = []*url.URL{nodeURI(a.ClusterID, a.epoch, id.ID)}
	template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	der, err := a.sign(template, id.Key.Public())
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: id.Key}, nil
}

// User signs a client certificate for user in groups, with a key of its own.
// Both are PEM.
func (a *Authority) User(user string, groups []string, now time.Time) (cert, key []byte, err error) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := a.sign(leaf(user, groups, now), signer.Public())
	if err != nil {
		return nil, nil, err
	}
	key, err = marshalKey(signer)
	return encodeCert(der), key, err
}

func (a *Authority) sign(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return der, nil
}

func leaf(user string, groups []string, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: user, Organization: groups},
		NotBefore:    now.Add(-clockSlack),
		NotAfter:     now.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// VerifyNode checks that cert is a node's certificate of this cluster, valid at
// now, and returns the node's id.
func (a *Authority) VerifyNode(cert *x509.Certificate, now time.Time) (nodeID string, err error) {
	_, err = cert.Verify(x509.VerifyOptions{
		Roots:       a.Pool(),
		CurrentTime: now,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return "", fmt.Errorf("its certificate is not of cluster %s: %w", a.ClusterID, err)
	}
	for _, uri := range cert.URIs {
		if id, ok := nodeOfURI(uri, a.ClusterID); ok {
			if theirs := uri.Query().Get("epoch"); theirs != a.epoch {
				return "", fmt.Errorf("node %s: %w: %s, and this node to %s", id, ErrEpoch, epochText(theirs), epochText(a.epoch))
			}
			return id, nil
		}
	}
	return "", errors.New("its certificate is not a node's")
}

// MadeAt is the time at which a certificate was signed, by the signer's clock.
func MadeAt(cert *x509.Certificate) time.Time { return cert.NotBefore.Add(clockSlack) }

// nodeURI names the epoch only if it is not the first.
func nodeURI(clusterID, epoch, nodeID string) *url.URL {
	u := &url.URL{Scheme: "kontiki", Host: clusterID, Path: "/node/" + nodeID}
	if epoch != "" {
		u.RawQuery = url.Values{"epoch": {epoch}}.Encode()
	}
	return u
}

func epochText(epoch string) string { return cmp.Or(epoch, "1") }

func nodeOfURI(uri *url.URL, clusterID string) (string, bool) {
	const prefix = "/node/"
	if uri.Scheme != "kontiki" || uri.Host != clusterID || len(uri.Path) <= len(prefix) || uri.Path[:len(prefix)] != prefix {
		return "", false
	}
	id := uri.Path[len(prefix):]
	return id, ValidID(id)
}

func serial() *big.Int {
	var raw [16]byte
	rand.Read(raw[:])
	raw[0] &= 0x7f // RFC 5280: positive, at most 20 octets
	return new(big.Int).SetBytes(raw[:])
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func fingerprintDER(der []byte) ([sha256.Size]byte, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return Fingerprint(cert), nil
}
