package agent_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"kontiki/apiserver"
	"kontiki/raftstore/raftstoretest"
	"kontiki/runtime/shim/shimtest"
)

// agents leads every node's requests to the one agent there is.
type agents struct{ server *httptest.Server }

func (a agents) Agent(context.Context, string) (*url.URL, http.RoundTripper, error) {
	to, err := url.Parse(a.server.URL)
	return to, a.server.Client().Transport, err
}

// TestAgainstTheRealAPI is one pod's life as a user of the API sees it.
func TestAgainstTheRealAPI(t *testing.T) {
	l := prepareLab(t)
	l.crowded = true
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { l.agent.Handler().ServeHTTP(w, r) }))
	t.Cleanup(endpoint.Close)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := apiserver.New(apiserver.Config{
		ServiceAccountKey: key,
		Store:             raftstoretest.New(t), Settings: apiserver.Settings{ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16")}, Agents: agents{endpoint}, Version: "test", Logger: slog.New(slog.DiscardHandler),
	})
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
	as := func(name string, groups ...string) kubernetes.Interface {
		c, err := kubernetes.NewForConfig(s.Client(&user.DefaultInfo{Name: name, Groups: groups}))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	admin := as("admin", user.SystemPrivilegedGroup)
	shimtest.Eventually(t, "the namespace", func() bool {
		_, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		return err == nil || apierrors.IsAlreadyExists(err)
	})
	// What every namespace has. The pod mounts its account's token, which the node
	// asks for as itself.
	if _, err := admin.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "x"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.client = as("system:node:n1", "system:nodes", user.AllAuthenticated)
	l.begin()
	t.Cleanup(func() { l.stop() })
	l.client = admin

	shimtest.Eventually(t, "the Node to be ready", func() bool {
		n, err := admin.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			return false
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	})
	l.pod("web", nil, "run")
	p := l.wait("web", "to be ready", ready)
	if len(p.Spec.Volumes) != 1 || len(p.Spec.Containers[0].VolumeMounts) != 1 {
		t.Errorf("the pod has no token: %+v", p.Spec)
	}
	if p.Status.PodIP != "127.0.0.1" || p.Status.Phase != corev1.PodRunning || p.Status.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("status: %+v", p.Status)
	}
	// A container runs before its program has written: follow, and read one line.
	stream, err := admin.CoreV1().Pods("default").GetLogs("web", &corev1.PodLogOptions{Follow: true}).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if line, err := bufio.NewReader(stream).ReadString('\n'); err != nil || line != "running\n" {
		t.Errorf("log: %q %v", line, err)
	}
	shimtest.Eventually(t, "the events of a start", func() bool {
		list, err := admin.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false
		}
		seen := map[string]bool{}
		for _, e := range list.Items {
			seen[e.Reason] = true
		}
		return seen["Pulled"] && seen["Created"] && seen["Started"]
	})
	grace := int64(1)
	if err := admin.CoreV1().Pods("default").Delete(t.Context(), "web", metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		t.Fatal(err)
	}
	shimtest.Eventually(t, "the pod to be gone from the API", func() bool {
		_, err := admin.CoreV1().Pods("default").Get(t.Context(), "web", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	l.clean()
	l.stop()
}
