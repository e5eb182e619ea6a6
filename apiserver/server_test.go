package apiserver

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"kontiki/apiserver/storage"
	"kontiki/raftstore/raftstoretest"
)

var admin = &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}

// startServer runs a server over store until the test ends.
func startServer(t testing.TB, store storage.Backend, change ...func(*Config)) *Server {
	t.Helper()
	cfg := Config{
		Store:    store,
		Settings: Settings{ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16")},
		Version:  "0.0.0-test",
		Logger:   slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func clientOf(t testing.TB, s *Server, u user.Info, opts ...ClientOption) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(s.Client(u, opts...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCreate(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	ctx := t.Context()
	if _, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cm, err := c.CoreV1().ConfigMaps("a").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if cm.UID == "" || cm.ResourceVersion == "" {
		t.Fatalf("not created: %v", cm)
	}
}

// jsonOnly is for clients of kinds that have no protobuf.
func jsonOnly(config *rest.Config) *rest.Config {
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	return config
}
