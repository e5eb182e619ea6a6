package pki

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// ErrNoTrust is returned when a data directory holds no cluster's trust: the
// node is blank.
var ErrNoTrust = errors.New("this node belongs to no cluster yet")

// Trust is what a cluster's replicas hold in common: the authority, the key that
// signs service account tokens, and the data key that encrypts Secrets. On disk
// and in the store it stands sealed with the key-encryption key, which lies in a
// file of its own and is never part of a snapshot.
type Trust struct {
	Authority         *Authority
	ServiceAccountKey crypto.Signer
	DataKey           DataKey // the first; later ones are in the store

	sealed sealedTrust
	kek    []byte // 32 bytes
}

// DataKey encrypts values at rest. ID stands before each value it encrypted, so
// that keys can be rotated.
type DataKey struct {
	ID  string
	Key []byte // 32 bytes, for AES-256-GCM
}

// sealedTrust is the form of Trust on disk, in the store and on the wire.
type sealedTrust struct {
	Version           int    `json:"version"`
	ClusterID         string `json:"clusterID"`
	KEK               string `json:"kek"` // id of the key-encryption key that opens the rest
	CACert            []byte `json:"caCert"`
	CAKey             []byte `json:"caKey"`
	ServiceAccountKey []byte `json:"serviceAccountKey"`
	DataKeyID         string `json:"dataKeyID"`
	DataKey           []byte `json:"dataKey"`
}

const trustVersion = 1

// grant is what a member is given at formation or when it joins.
type grant struct {
	Trust sealedTrust `json:"trust"`
	KEK   []byte      `json:"kek"`
}

// NewTrust makes all keys of a new cluster.
func NewTrust(clusterID string, now time.Time) (*Trust, error) {
	authority, err := newAuthority(clusterID, now)
	if err != nil {
		return nil, err
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &Trust{
		Authority:         authority,
		ServiceAccountKey: signer,
		DataKey:           DataKey{ID: NewID(), Key: randomKey()},
		kek:               randomKey(),
	}
	if err := t.seal(); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Trust) seal() error {
	caKey, err := marshalKey(t.Authority.key)
	if err != nil {
		return err
	}
	saKey, err := marshalKey(t.ServiceAccountKey)
	if err != nil {
		return err
	}
	s := sealedTrust{Version: trustVersion, ClusterID: t.Authority.ClusterID, KEK: NewID(), CACert: t.Authority.CertPEM(), DataKeyID: t.DataKey.ID}
	for _, part := range []struct {
		into  *[]byte
		plain []byte
		name  string
	}{{&s.CAKey, caKey, "ca"}, {&s.ServiceAccountKey, saKey, "service-account"}, {&s.DataKey, t.DataKey.Key, "data/" + s.DataKeyID}} {
		if *part.into, err = sealBytes(t.kek, part.plain, s.context(part.name)); err != nil {
			return err
		}
	}
	t.sealed = s
	return nil
}

func openTrust(s sealedTrust, kek []byte) (*Trust, error) {
	if s.Version != trustVersion {
		return nil, fmt.Errorf("the cluster's keys have format %d, this program knows %d: use a newer kontiki", s.Version, trustVersion)
	}
	open := func(sealed []byte, name string) ([]byte, error) {
		plain, err := openBytes(kek, sealed, s.context(name))
		if err != nil {
			return nil, fmt.Errorf("open the cluster's %s key with the key-encryption key: %w", name, err)
		}
		return plain, nil
	}
	caKeyPEM, err := open(s.CAKey, "ca")
	if err != nil {
		return nil, err
	}
	saKeyPEM, err := open(s.ServiceAccountKey, "service-account")
	if err != nil {
		return nil, err
	}
	var dataKey []byte
	if s.DataKeyID != "" { // else it was dropped, see WithoutFoundingKey
		if dataKey, err = open(s.DataKey, "data/"+s.DataKeyID); err != nil {
			return nil, err
		}
	}
	caKey, err := parseKey(caKeyPEM)
	if err != nil {
		return nil, err
	}
	saKey, err := parseKey(saKeyPEM)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(s.CACert)
	if block == nil {
		return nil, errors.New("the cluster's CA certificate is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the cluster's CA certificate: %w", err)
	}
	return &Trust{
		Authority:         &Authority{ClusterID: s.ClusterID, Cert: cert, key: caKey},
		ServiceAccountKey: saKey,
		DataKey:           DataKey{ID: s.DataKeyID, Key: dataKey},
		sealed:            s,
		kek:               kek,
	}, nil
}

// context binds a sealed value to its cluster, its key and its meaning.
func (s sealedTrust) context(name string) []byte {
	return []byte("kontiki " + s.ClusterID + " " + s.KEK + " " + name)
}

// ClusterID is the id of the cluster whose trust this is.
func (t *Trust) ClusterID() string { return t.Authority.ClusterID }

// Sealed is the trust without the key that opens it: what goes into the store.
func (t *Trust) Sealed() ([]byte, error) { return json.Marshal(t.sealed) }

// Grant is the trust with the key that opens it. It is sent only to a peer that
// proved the join secret, over the connection that it proved it on.
func (t *Trust) Grant() ([]byte, error) { return json.Marshal(grant{t.sealed, t.kek}) }

// AcceptGrant opens a grant and makes it durable in dir.
func AcceptGrant(dir string, data []byte) (*Trust, error) {
	var g grant
	if err := json.Unmarshal(data, &g); err != nil {
		return nil, fmt.Errorf("the grant is not readable: %w", err)
	}
	t, err := openTrust(g.Trust, g.KEK)
	if err != nil {
		return nil, err
	}
	return t, t.Write(dir)
}

// Write makes the trust durable in dir: the key-encryption key first, since
// trust.json is what says that the node belongs to a cluster.
func (t *Trust) Write(dir string) error {
	sealed, err := t.Sealed()
	if err != nil {
		return err
	}
	if err := WriteFile(kekPath(dir), []byte(encodeKEK(t.sealed.KEK, t.kek))); err != nil {
		return err
	}
	return WriteFile(trustPath(dir), sealed)
}

// LoadTrust reads the trust in dir. ErrNoTrust means that there is none.
func LoadTrust(dir string) (*Trust, error) {
	sealed, found, err := readFile(trustPath(dir))
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, ErrNoTrust
	}
	var s sealedTrust
	if err := json.Unmarshal(sealed, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", trustPath(dir), err)
	}
	kekFile, found, err := readFile(kekPath(dir))
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("%s is missing: copy it from another replica of cluster %s, or empty the data directory and join anew", kekPath(dir), s.ClusterID)
	}
	kek, err := decodeKEK(string(kekFile), s.KEK)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kekPath(dir), err)
	}
	t, err := openTrust(s, kek)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", trustPath(dir), err)
	}
	return t, nil
}

// SealedWith is the id of the key-encryption key that opens what Sealed has returned.
func SealedWith(sealed []byte) (string, error) {
	var s sealedTrust
	if err := json.Unmarshal(sealed, &s); err != nil {
		return "", fmt.Errorf("the cluster's sealed keys: %w", err)
	}
	return s.KEK, nil
}

// OpenSealed opens what Sealed has returned with the text of a key-encryption key's file.
func OpenSealed(sealed []byte, keyText string) (*Trust, error) {
	var s sealedTrust
	if err := json.Unmarshal(sealed, &s); err != nil {
		return nil, fmt.Errorf("the cluster's sealed keys: %w", err)
	}
	kek, err := decodeKEK(keyText, s.KEK)
	if err != nil {
		return nil, fmt.Errorf("the file with the key-encryption key: %w", err)
	}
	return openTrust(s, kek)
}

// KeyText is the key-encryption key as its file holds it. Who has it can open every
// Secret and sign for everybody.
func (t *Trust) KeyText() (id, text string) { return t.sealed.KEK, encodeKEK(t.sealed.KEK, t.kek) }

// RemoveTrust makes the node in dir blank: trust.json goes first, since that is what says
// that it belongs to a cluster.
func RemoveTrust(dir string) error {
	for _, path := range []string{trustPath(dir), kekPath(dir)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := syncDir(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func trustPath(dir string) string { return filepath.Join(dir, "pki", "trust.json") }
func kekPath(dir string) string   { return filepath.Join(dir, "pki", "kek") }

func encodeKEK(id string, key []byte) string { return fmt.Sprintf("%s %x\n", id, key) }

func decodeKEK(text, wantID string) ([]byte, error) {
	var id string
	var key []byte
	if _, err := fmt.Sscanf(text, "%s %x\n", &id, &key); err != nil || len(key) != 32 {
		return nil, errors.New("not a key-encryption key (an id and 64 hexadecimal digits)")
	}
	if id != wantID {
		return nil, fmt.Errorf("holds key %s, but the cluster's keys are sealed with key %s", id, wantID)
	}
	return key, nil
}

func randomKey() []byte {
	key := make([]byte, 32)
	rand.Read(key)
	return key
}

func sealBytes(key, plain, context []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, plain, context), nil
}

func openBytes(key, sealed, context []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, nil, sealed, context)
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Founded is the time at which the cluster's keys were made.
func (t *Trust) Founded() time.Time { return t.Authority.Cert.NotBefore.Add(clockSlack) }
