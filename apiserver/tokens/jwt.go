// Package tokens makes and checks the tokens of service accounts: JSON Web
// Tokens (RFC 7519), signed with the cluster's key by ECDSA over P-256, in
// upstream's form. A token is bound to its account, and perhaps to a pod, a
// node or a secret; it ends with the first of them, or with its time.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package tokens

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// maxToken bounds what is looked at before a signature was checked.
const maxToken = 16 << 10

// ref names an object that a token is bound to.
type ref struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// bound is the part of the claims that Kubernetes has added.
type bound struct {
	Namespace      string `json:"namespace,omitempty"`
	ServiceAccount ref    `json:"serviceaccount"`
	Pod            *ref   `json:"pod,omitempty"`
	Secret         *ref   `json:"secret,omitempty"`
	Node           *ref   `json:"node,omitempty"`
	// WarnAfter is when whoever uses the token should have read a newer one; 0: never.
	WarnAfter int64 `json:"warnafter,omitempty"`
}

type claims struct {
	Audiences []string `json:"aud"`
	Expires   int64    `json:"exp"`
	IssuedAt  int64    `json:"iat"`
	Issuer    string   `json:"iss"`
	ID        string   `json:"jti"`
	Bound     bound    `json:"kubernetes.io"`
	NotBefore int64    `json:"nbf"`
	Subject   string   `json:"sub"`
}

type header struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
}

var encoding = base64.RawURLEncoding.Strict()

// Errors of tokens that look like this cluster's and are not to be believed.
var (
	errForm      = errors.New("the token is not a JSON Web Token")
	errSignature = errors.New("the token was not signed by this cluster")
)

// signer holds the key and its name.
type signer struct {
	key    crypto.Signer
	public *ecdsa.PublicKey
	id     string
}

func newSigner(key crypto.Signer) (*signer, error) {
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, fmt.Errorf("the key of service accounts is a %T: make it an ECDSA key over P-256", key.Public())
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return &signer{key, public, encoding.EncodeToString(sum[:])}, nil
}

func (s *signer) sign(c any) (string, error) {
	head, err := json.Marshal(header{Algorithm: "ES256", KeyID: s.id})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	text := encoding.EncodeToString(head) + "." + encoding.EncodeToString(body)
	sum := sha256.Sum256([]byte(text))
	der, err := s.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return "", err
	}
	// RFC 7518, 3.4: both numbers one after the other, 32 bytes each.
	var pair struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &pair); err != nil {
		return "", err
	}
	var raw [64]byte
	pair.R.FillBytes(raw[:32])
	pair.S.FillBytes(raw[32:])
	return text + "." + encoding.EncodeToString(raw[:]), nil
}

// issuerOf returns the issuer that a token claims, without any check.
func issuerOf(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || len(token) > maxToken {
		return ""
	}
	body, err := encoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(body, &c) != nil {
		return ""
	}
	return c.Issuer
}

// verify reads the claims of a token with a good signature.
func (s *signer) verify(token string, c any) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || len(token) > maxToken {
		return errForm
	}
	head, err := encoding.DecodeString(parts[0])
	if err != nil {
		return errForm
	}
	var h header
	if json.Unmarshal(head, &h) != nil {
		return errForm
	}
	raw, err := encoding.DecodeString(parts[2])
	if err != nil || h.Algorithm != "ES256" || len(raw) != 64 {
		return errSignature
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if !ecdsa.Verify(s.public, sum[:], new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])) {
		return errSignature
	}
	body, err := encoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(body, c) != nil {
		return errForm
	}
	return nil
}

// keys is the public key as others read it (RFC 7517).
func (s *signer) keys() ([]byte, error) {
	point, err := s.public.Bytes() // 0x04, X, Y
	if err != nil {
		return nil, err
	}
	type key struct {
		Use       string `json:"use"`
		Type      string `json:"kty"`
		ID        string `json:"kid"`
		Curve     string `json:"crv"`
		Algorithm string `json:"alg"`
		X         string `json:"x"`
		Y         string `json:"y"`
	}
	return json.Marshal(map[string][]key{"keys": {{
		Use: "sig", Type: "EC", ID: s.id, Curve: "P-256", Algorithm: "ES256",
		X: encoding.EncodeToString(point[1:33]), Y: encoding.EncodeToString(point[33:]),
	}}})
}
