package main

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: kontiki, cluster: {server: "https://10.0.0.1:6443"}}]
contexts: [{name: kontiki, context: {cluster: kontiki, user: kontiki}}]
current-context: kontiki
users: [{name: kontiki, user: {token: x}}]
`

func TestKubeconfigOfThisNode(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("KUBECONFIG", filepath.Join(dir, "of another cluster")+":"+filepath.Join(dir, "and another"))
	t.Setenv("KONTIKI_DATA_DIR", dir)
	path := filepath.Join(dir, "admin.kubeconfig")
	if err := os.WriteFile(path, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := findKubeconfig(); got != path {
		t.Errorf("found %q, want %q", got, path)
	}
	var out bytes.Buffer
	cmd := kubeconfigCommand()
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"--server", "https://node.example:6443"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "server: https://node.example:6443") || strings.Contains(got, "10.0.0.1") {
		t.Errorf("printed\n%s", got)
	}
}

func TestStaleIsTakenOut(t *testing.T) {
	for _, try := range []struct {
		args, want []string
		stale      bool
	}{
		{[]string{"get", "pods", "--stale"}, []string{"get", "pods"}, true},
		{[]string{"get", "pods"}, []string{"get", "pods"}, false},
		{[]string{"exec", "a", "--", "b", "--stale"}, []string{"exec", "a", "--", "b", "--stale"}, false},
	} {
		if got, stale := withoutStale(try.args); stale != try.stale || !slices.Equal(got, try.want) {
			t.Errorf("%v: %v %t", try.args, got, stale)
		}
	}
}

type recorded struct{ urls []string }

func (r *recorded) RoundTrip(req *http.Request) (*http.Response, error) {
	r.urls = append(r.urls, req.URL.RequestURI())
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
}

func TestStaleReads(t *testing.T) {
	next := &recorded{}
	rt := staleReads{next}
	for _, url := range []string{"/api/v1/pods?limit=500", "/api/v1/pods?resourceVersion=7&watch=true", "/apis/apps/v1/deployments?continue=x", "/version"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://node"+url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	want := []string{"/api/v1/pods?limit=500&resourceVersion=0", "/api/v1/pods?resourceVersion=7&watch=true", "/apis/apps/v1/deployments?continue=x", "/version"}
	if !slices.Equal(next.urls, want) {
		t.Errorf("asked %q, want %q", next.urls, want)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, "http://node/api/v1/pods/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := rt.RoundTrip(req); err == nil {
		resp.Body.Close()
		t.Error("--stale has deleted something")
	}
}
