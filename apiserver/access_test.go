package apiserver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"kontiki/pki"
	"kontiki/raftstore/raftstoretest"
)

// authority is a CA that signs clients.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *authority) client(t *testing.T, server *httptest.Server, name string, groups ...string) *http.Client {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: pool, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}}}
}

func TestWhoMaySeeWhat(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	s := startServer(t, raftstoretest.New(t), func(c *Config) { c.ClientCA = ours.pool })
	defaultNamespace(t, clientOf(t, s, Self()))
	ready(t, s)
	server := httptest.NewUnstartedServer(s.Handler())
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	defer server.Close()

	nobody := server.Client()
	admin := ours.client(t, server, "admin", user.SystemPrivilegedGroup)
	jane := ours.client(t, server, "jane", "developers")
	stranger := theirs.client(t, server, "admin", user.SystemPrivilegedGroup)
	for _, c := range []struct {
		who    string
		client *http.Client
		path   string
		want   int
	}{
		{"nobody", nobody, "/readyz", 200},
		{"nobody", nobody, "/livez", 200},
		{"nobody", nobody, "/version", 200},
		{"nobody", nobody, "/api", 401},
		{"nobody", nobody, "/api/v1/namespaces", 401},
		{"nobody", nobody, "/metrics", 401},
		{"admin", admin, "/api/v1/namespaces", 200},
		{"admin", admin, "/openapi/v2", 200},
		{"admin", admin, "/openapi/v3/apis/apps/v1", 200},
		{"admin", admin, "/apis", 200},
		{"admin", admin, "/nowhere", 404},
		{"jane", jane, "/api", 200},
		{"jane", jane, "/api/v1/namespaces", 403},
		{"stranger", stranger, "/api/v1/namespaces", 401},
		{"stranger", stranger, "/healthz", 200},
	} {
		resp, err := c.client.Get(server.URL + c.path)
		if err != nil {
			t.Errorf("%s %s: %v", c.who, c.path, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s %s: %d, want %d: %.200s", c.who, c.path, resp.StatusCode, c.want, body)
		}
		if c.path == "/version" && !bytes.Contains(body, []byte(`"gitVersion": "v1.37.2+kontiki.0.0.0-test"`)) {
			t.Errorf("version is %s", body)
		}
	}
	resp, err := jane.Get(server.URL + "/api/v1/namespaces")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var status metav1.Status
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil || !strings.HasPrefix(status.Message,
		`namespaces is forbidden: User "jane" cannot list resource "namespaces" in API group "" at the cluster scope`) {
		t.Errorf("%v %v", status, err)
	}
}

// TestFrontProxySpeaksForOthers believes a front proxy's certificate, and the same
// headers from nobody else.
func TestFrontProxySpeaksForOthers(t *testing.T) {
	ours, fronts := newAuthority(t), newAuthority(t)
	s := startServer(t, raftstoretest.New(t), func(c *Config) { c.ClientCA, c.FrontProxy.CA = ours.pool, fronts.pool() })
	ready(t, s)
	server := httptest.NewUnstartedServer(s.Handler())
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	defer server.Close()
	for _, c := range []struct {
		who    string
		client *http.Client
		want   string
	}{
		{"the front proxy", fronts.client(t, server, pki.FrontProxyUser), "jane [developers system:authenticated]"},
		{"another of its authority", fronts.client(t, server, "somebody"), ""},
		{"a user", ours.client(t, server, "joe", "testers"), "joe [testers system:authenticated]"},
		{"nobody", server.Client(), ""},
	} {
		body := strings.NewReader(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)
		req, err := http.NewRequestWithContext(t.Context(), "POST", server.URL+"/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Remote-User", "jane")
		req.Header.Set("X-Remote-Group", "developers")
		resp, err := c.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if resp.StatusCode == http.StatusCreated {
			var review authenticationv1.SelfSubjectReview
			err = json.NewDecoder(resp.Body).Decode(&review)
			got = fmt.Sprintf("%s %v", review.Status.UserInfo.Username, review.Status.UserInfo.Groups)
		}
		resp.Body.Close()
		if err != nil || got != c.want {
			t.Errorf("%s is %q (%d), want %q: %v", c.who, got, resp.StatusCode, c.want, err)
		}
	}
}

func TestComponentsMayDoTheirWork(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	node := clientOf(t, s, &user.DefaultInfo{Name: "system:node:a", Groups: []string{user.NodesGroup}})
	scheduler := clientOf(t, s, &user.DefaultInfo{Name: user.KubeScheduler})
	manager := clientOf(t, s, &user.DefaultInfo{Name: user.KubeControllerManager})
	defaultNamespace(t, clientOf(t, s, admin))
	ctx := t.Context()
	if _, err := node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if _, err := manager.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "a"}}
	if err := node.CoreV1().Pods("default").Bind(ctx, binding, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a node binds: %v", err)
	}
	if err := scheduler.CoreV1().Pods("default").Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if err := scheduler.CoreV1().Pods("default").Bind(ctx, binding, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("bound twice: %v", err)
	}
	if _, err := scheduler.CoreV1().Secrets("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the scheduler reads secrets: %v", err)
	}
	if _, err := node.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a node writes configuration: %v", err)
	}
}

// TestMemoryTransport checks what clients rely on: an abandoned response ends
// its handler, and a panic is an error and not the end of the node.
func TestMemoryTransport(t *testing.T) {
	ended := make(chan struct{})
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/panic":
			panic("broken")
		case "/stream":
			defer close(ended)
			w.(http.Flusher).Flush()
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}
	})
	s := &Server{}
	transport := s.Client(admin).Transport
	get := func(ctx context.Context, path string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, "GET", "http://x"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		return transport.RoundTrip(req)
	}
	if _, err := get(t.Context(), "/"); err == nil {
		t.Error("a server that is not there answers")
	}
	s.handler.Store(&handler)
	if _, err := get(t.Context(), "/panic"); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("a panic is told as %v", err)
	}
	resp, err := get(t.Context(), "/stream")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", resp, err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 1<<20)); err != nil {
		t.Error(err)
	}
	resp.Body.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the handler outlives its reader")
	}
}
