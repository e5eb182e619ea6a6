package node

import (
	"crypto/tls"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"kontiki/pki"
)

// A disk that fills up between two files would leave a certificate and a key that do not
// fit, with which no node starts.
func TestFrontProxyIsOneFile(t *testing.T) {
	trust, err := pki.NewTrust(pki.NewID(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	clock, err := pki.OpenClock(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{charter: charter{trust: trust}, clock: clock, cfg: Config{DataDir: dir}, log: slog.New(slog.DiscardHandler)}
	for range 2 { // made, and made anew
		front, err := n.writeFrontProxy()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tls.LoadX509KeyPair(front.CertFile, front.KeyFile); err != nil {
			t.Error(err)
		}
	}
	if files, err := filepath.Glob(filepath.Join(dir, "pki", "*front-proxy*")); err != nil || len(files) != 1 {
		t.Errorf("certificate and key lie in %v: %v", files, err)
	}
}
