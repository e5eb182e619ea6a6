package pki

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestIdentityIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	first, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if first.ID != second.ID || !ValidID(first.ID) {
		t.Fatalf("ids %q and %q, want one valid id", first.ID, second.ID)
	}
	if err := os.Remove(filepath.Join(dir, "pki", "node.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(dir); err == nil || !strings.Contains(err.Error(), "restore the key") {
		t.Fatalf("an id without its key: %v, want a refusal that says what to do", err)
	}
}

func TestIdentityAfterCrashBetweenKeyAndID(t *testing.T) {
	dir := t.TempDir()
	first, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "node-id")); err != nil {
		t.Fatal(err)
	}
	second, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if first.ID == second.ID {
		t.Fatal("the id came back without its file")
	}
}

func TestTrustSurvivesDiskAndGrant(t *testing.T) {
	now := time.Now()
	made, err := NewTrust(NewID(), now)
	if err != nil {
		t.Fatal(err)
	}
	data, err := made.Grant()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := LoadTrust(dir); !errors.Is(err, ErrNoTrust) {
		t.Fatalf("a blank directory: %v, want ErrNoTrust", err)
	}
	if _, err := AcceptGrant(dir, data); err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadTrust(dir)
	if err != nil {
		t.Fatal(err)
	}
	id, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := loaded.Authority.Node(id, "n1", nil, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if got, err := made.Authority.VerifyNode(parsed, now); err != nil || got != id.ID {
		t.Fatalf("a node certificate by the loaded authority: %q, %v; want %q", got, err, id.ID)
	}
	later := made.Authority.InEpoch("2-0123456789abc")
	if _, err := later.VerifyNode(parsed, now); !errors.Is(err, ErrEpoch) || !strings.Contains(err.Error(), "to another epoch of the cluster: 1, and this node to 2-") {
		t.Fatalf("a certificate of an earlier epoch: %v", err)
	}
	if cert, err = later.Node(id, "n1", nil, nil, now); err != nil {
		t.Fatal(err)
	}
	fresh, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if got, err := later.VerifyNode(fresh, now); err != nil || got != id.ID {
		t.Fatalf("a certificate of the epoch: %q, %v", got, err)
	}
	if _, err := made.Authority.VerifyNode(fresh, now); !errors.Is(err, ErrEpoch) {
		t.Fatalf("a certificate of a later epoch: %v", err)
	}
	other, err := NewTrust(NewID(), now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Authority.VerifyNode(parsed, now); err == nil {
		t.Fatal("another cluster accepted the certificate")
	}
}

func TestSealedTrustHoldsNoKey(t *testing.T) {
	trust, err := NewTrust(NewID(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := trust.Sealed()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(sealed), "PRIVATE KEY") {
		t.Fatal("a private key stands in the sealed form")
	}
	wrong := randomKey()
	if _, err := openTrust(trust.sealed, wrong); err == nil {
		t.Fatal("a wrong key-encryption key opened the trust")
	}
}

func TestMissingKEKSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	trust, err := NewTrust(NewID(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := trust.Write(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(kekPath(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadTrust(dir); err == nil || !strings.Contains(err.Error(), "another replica") {
		t.Fatalf("without the key-encryption key: %v", err)
	}
}

func TestShortSecretIsRefused(t *testing.T) {
	if _, err := ParseSecret([]byte("hunter2\n"), "file"); err == nil || !strings.Contains(err.Error(), "at least 16") {
		t.Fatalf("a short secret: %v", err)
	}
}
