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

func (s Secret) derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, s.raw, nil, purpose, 32)
	if err != nil {
		panic("pki: HKDF refuses a length of 32: " + err.Error())
	}
	return key
}

// Prove shows the other end of a TLS 1.3 connection that this end knows the
// join secret, and checks that the other end knows it too. Each side sends an
// HMAC over the connection's exporter (RFC 8446, section 7.5), its role and both
// keys' fingerprints, so a proof is worth nothing on another connection or in the
// other direction. Both ends must have shown a certificate. The caller sets a
// deadline on the connection.
func (s Secret) Prove(conn *tls.Conn, local tls.Certificate, client bool) error {
	state := conn.ConnectionState()
	if len(state.PeerCertificates) == 0 {
		return errors.New("the other end showed no certificate")
	}
	exporter, err := state.ExportKeyingMaterial("EXPORTER-kontiki-join", nil, 32)
	if err != nil {
		return fmt.Errorf("export keying material: %w", err)
	}
	own, err := fingerprintDER(local.Certificate[0])
	if err != nil {
		return err
	}
	peer := Fingerprint(state.PeerCertificates[0])
	clientKey, serverKey := own, peer
	if !client {
		clientKey, serverKey = peer, own
	}
	proof := func(role string) []byte {
		mac := hmac.New(sha256.New, s.derive("kontiki join proof v1"))
		io.WriteString(mac, role)
		mac.Write(exporter)
		mac.Write(clientKey[:])
		mac.Write(serverKey[:])
		return mac.Sum(nil)
	}
	ownProof, peerProof := proof("client"), proof("server")
	if !client {
		ownProof, peerProof = peerProof, ownProof
	}
	// The client goes first; a server proves nothing to a client that does not know,
	// but says so, since a connection may end for other reasons, too.
	if client {
		if _, err := conn.Write(ownProof); err != nil {
			return fmt.Errorf("send the proof: %w", err)
		}
	}
	got := make([]byte, sha256.Size)
	if _, err := io.ReadFull(conn, got); err != nil {
		return fmt.Errorf("receive the proof: %w", err)
	}
	if !hmac.Equal(got, peerProof) {
		if !client {
			conn.Write(make([]byte, sha256.Size)) // if it is lost, the client is merely told less
		}
		return ErrWrongSecret
	}
	if !client {
		if _, err := conn.Write(ownProof); err != nil {
			return fmt.Errorf("send the proof: %w", err)
		}
	}
	return nil
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
