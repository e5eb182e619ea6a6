package pki

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// minSecret is the least number of bytes of a join secret. A proof can be
// attacked by guessing, so a secret must be beyond guesses.
const minSecret = 16

// ErrWrongSecret is returned when the other end of a connection does not know
// the join secret.
var ErrWrongSecret = errors.New("the other end does not know the join secret: give both nodes the same secret file")

// Secret is a join secret. It is never sent; what is used are keys derived from it.
type Secret struct{ raw []byte }

// NewSecret makes a secret of 256 random bits, in hex.
func NewSecret() Secret {
	var raw [32]byte
	rand.Read(raw[:])
	return Secret{[]byte(hex.EncodeToString(raw[:]))}
}

// ReadSecret reads a secret from a file. White space around it does not count.
func ReadSecret(path string) (Secret, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Secret{}, fmt.Errorf("read the join secret: %w", err)
	}
	return ParseSecret(data, path)
}

// ParseSecret takes the content of a secret file; name stands in the error.
func ParseSecret(data []byte, name string) (Secret, error) {
	raw := bytes.TrimSpace(data)
	if len(raw) < minSecret {
		return Secret{}, fmt.Errorf("the join secret in %s has %d bytes, at least %d are needed; make one with: openssl rand -hex 32", name, len(raw), minSecret)
	}
	return Secret{bytes.Clone(raw)}, nil
}

// Write stores the secret in a file that only its owner can read.
func (s Secret) Write(path string) error { return WriteFile(path, append(bytes.Clone(s.raw), '\n')) }

// RingKey is the key of 32 bytes that encrypts the gossip ring.
func (s Secret) RingKey() []byte { return s.derive("kontiki ring v1") }

// Equal tells whether two secrets are one.
func (s Secret) Equal(o Secret) bool { return hmac.Equal(s.raw, o.raw) }

// Text is the secret as it stands in a file.
func (s Secret) Text() string { return string(s.raw) }

func (s Secret) derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, s.raw, nil, purpose, 32)
	if err != nil {
		panic("pki: HKDF refuses a length of 32: " + err.Error())
	}
	return key
}

// proofs are what either end of a TLS 1.3 connection sends to show that it knows the
// secret: an HMAC over the connection's exporter (RFC 8446, section 7.5), the role and
// both keys' fingerprints, so a proof is worth nothing on another connection or in the
// other direction.
type proofs struct {
	exporter             []byte
	clientKey, serverKey [sha256.Size]byte
}

func proofsOf(conn *tls.Conn, local tls.Certificate, client bool) (p proofs, err error) {
	state := conn.ConnectionState()
	if len(state.PeerCertificates) == 0 {
		return p, errors.New("the other end showed no certificate")
	}
	if p.exporter, err = state.ExportKeyingMaterial("EXPORTER-kontiki-join", nil, 32); err != nil {
		return p, fmt.Errorf("export keying material: %w", err)
	}
	own, err := fingerprintDER(local.Certificate[0])
	if err != nil {
		return p, err
	}
	peer := Fingerprint(state.PeerCertificates[0])
	p.clientKey, p.serverKey = own, peer
	if !client {
		p.clientKey, p.serverKey = peer, own
	}
	return p, nil
}

func (p proofs) of(s Secret, role string) []byte {
	mac := hmac.New(sha256.New, s.derive("kontiki join proof v1"))
	io.WriteString(mac, role)
	mac.Write(p.exporter)
	mac.Write(p.clientKey[:])
	mac.Write(p.serverKey[:])
	return mac.Sum(nil)
}

// Prove is the client's end of a proof: it shows that it knows the secret, and checks
// that the server does. Both ends must have shown a certificate. The caller sets a
// deadline on the connection.
func (s Secret) Prove(conn *tls.Conn, local tls.Certificate) error {
	p, err := proofsOf(conn, local, true)
	if err != nil {
		return err
	}
	if _, err := conn.Write(p.of(s, "client")); err != nil {
		return fmt.Errorf("send the proof: %w", err)
	}
	got, err := readProof(conn)
	if err != nil {
		return err
	}
	if !hmac.Equal(got, p.of(s, "server")) {
		return ErrWrongSecret
	}
	return nil
}

// Secrets are the join secrets that a node knows. There is one, but while it is being
// changed: then the first is what this node proves, and either is accepted.
type Secrets []Secret

// Accept is the server's end of a proof. It answers by the secret that the client
// proved. To a client that knows none of them it proves nothing, but says so, since a
// connection may end for other reasons, too.
func (s Secrets) Accept(conn *tls.Conn, local tls.Certificate) error {
	p, err := proofsOf(conn, local, false)
	if err != nil {
		return err
	}
	got, err := readProof(conn)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(s, func(one Secret) bool { return hmac.Equal(got, p.of(one, "client")) })
	if i < 0 {
		conn.Write(make([]byte, sha256.Size)) // if it is lost, the client is merely told less
		return ErrWrongSecret
	}
	if _, err := conn.Write(p.of(s[i], "server")); err != nil {
		return fmt.Errorf("send the proof: %w", err)
	}
	return nil
}

func readProof(conn *tls.Conn) ([]byte, error) {
	got := make([]byte, sha256.Size)
	if _, err := io.ReadFull(conn, got); err != nil {
		return nil, fmt.Errorf("receive the proof: %w", err)
	}
	return got, nil
}

// OwnSecret reads the secret at path, and makes one there on first use.
func OwnSecret(path string) (Secret, error) {
	data, found, err := readFile(path)
	if err != nil {
		return Secret{}, fmt.Errorf("read the join secret: %w", err)
	}
	if found {
		return ParseSecret(data, path)
	}
	secret := NewSecret()
	return secret, secret.Write(path)
}
