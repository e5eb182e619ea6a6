package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"time"
)

// idEncoding is Crockford's alphabet in lower case: 16 bytes become 26
// characters that sort as the bytes do.
var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// idLength is the number of characters of an id.
const idLength = 26

// NewID returns a random id of 128 bits: 26 lower-case characters. Node ids and
// cluster ids are made this way.
func NewID() string {
	var raw [16]byte
	rand.Read(raw[:])
	return idEncoding.EncodeToString(raw[:])
}

// ValidID tells whether s has the form of an id.
func ValidID(s string) bool {
	raw, err := idEncoding.DecodeString(s)
	return err == nil && len(raw) == 16 && len(s) == idLength
}

// Identity is who a node is before and outside of any cluster: an id that is
// made once, and a key. Self is a certificate that the key signed itself; peers
// that prove knowledge of the join secret pin its key.
type Identity struct {
	ID   string
	Key  crypto.Signer
	Self tls.Certificate
}

// LoadIdentity reads the identity in dir, and makes it on first use. A
// directory that holds only half of one is refused: making the other half anew
// would bring a second node to life under one id.
func LoadIdentity(dir string) (Identity, error) {
	idPath, keyPath := filepath.Join(dir, "node-id"), filepath.Join(dir, "pki", "node.key")
	idRaw, haveID, err := readFile(idPath)
	if err != nil {
		return Identity{}, err
	}
	keyPEM, haveKey, err := readFile(keyPath)
	if err != nil {
		return Identity{}, err
	}
	switch {
	case !haveKey && haveID:
		return Identity{}, fmt.Errorf("%s names a node but its key %s is missing: restore the key, or empty the data directory to start as a new node", idPath, keyPath)
	case !haveKey:
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return Identity{}, err
		}
		if keyPEM, err = marshalKey(key); err != nil {
			return Identity{}, err
		}
		if err := WriteFile(keyPath, keyPEM); err != nil {
			return Identity{}, err
		}
		fallthrough
	case !haveID:
		// The key is written first, so a crash between the two ends here.
		idRaw = []byte(NewID() + "\n")
		if err := WriteFile(idPath, idRaw); err != nil {
			return Identity{}, err
		}
	}
	id := strings.TrimSpace(string(idRaw))
	if !ValidID(id) {
		return Identity{}, fmt.Errorf("%s holds %q, which is no node id (%d characters of 0-9a-z)", idPath, id, idLength)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return Identity{}, fmt.Errorf("%s: %w", keyPath, err)
	}
	self, err := selfSign(id, key)
	if err != nil {
		return Identity{}, err
	}
	return Identity{ID: id, Key: key, Self: self}, nil
}

// selfSign makes a certificate that carries a key and nothing that anybody
// relies on: its dates span all clocks.
func selfSign(id string, key crypto.Signer) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: id},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign the node's own certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Fingerprint is the SHA-256 of a certificate's public key (SubjectPublicKeyInfo).
func Fingerprint(cert *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

func marshalKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("no PEM block of type PRIVATE KEY")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return signer, nil
}
