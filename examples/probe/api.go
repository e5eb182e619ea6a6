package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// accountDir is where a pod finds its account's token.
const accountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// askAPI gets a path from the cluster's API as any client in a pod does: at the name
// of its Service, trusting the authority that was mounted, as the pod's account.
func askAPI(ctx context.Context, path string, out io.Writer) error {
	read := func(name string) (string, error) {
		b, err := os.ReadFile(filepath.Join(accountDir, name))
		return strings.TrimSpace(string(b)), err
	}
	token, err := read("token")
	if err != nil {
		return err
	}
	namespace, err := read("namespace")
	if err != nil {
		return err
	}
	ca, err := read("ca.crt")
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca)) {
		return fmt.Errorf("%s/ca.crt holds no certificate", accountDir)
	}
	url := "https://" + net.JoinHostPort("kubernetes.default.svc", "443") + strings.ReplaceAll(path, "NAMESPACE", namespace)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Fprintln(out, resp.Status)
	_, err = io.Copy(out, resp.Body)
	return err
}
