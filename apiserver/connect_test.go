package apiserver

import (
	"net/url"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kontiki/raftstore/raftstoretest"
)

// TestConnectRefusals is what is said before a connection to a pod is made; the
// connections themselves are tried in jepsen/acceptance.
func TestConnectRefusals(t *testing.T) {
	nobody := &url.URL{Scheme: "http", Host: "127.0.0.1:1"} // tcpmux: nobody listens
	c := clientOf(t, startServer(t, raftstoretest.New(t), func(cfg *Config) { cfg.Agents = agents{nobody} }), admin)
	defaultNamespace(t, c)
	createPod(t, c, pod("unbound"))
	createPod(t, c, pod("silent", onNode))
	createPod(t, c, pod("away", func(p *corev1.Pod) { p.Spec.NodeName = "b" }))
	for _, try := range []struct {
		pod, subresource, query string
		is                      func(error) bool
	}{
		{"none", "exec", "command=x&stdout=true", apierrors.IsNotFound},
		{"unbound", "exec", "command=x&stdout=true", apierrors.IsBadRequest},
		{"away", "exec", "command=x&stdout=true", apierrors.IsServiceUnavailable},
		{"silent", "exec", "command=x&stdout=true", apierrors.IsServiceUnavailable},
		{"silent", "exec", "stdout=true", apierrors.IsBadRequest},
		{"silent", "exec", "command=x", apierrors.IsBadRequest},
		{"silent", "exec", "command=x&stdout=true&container=other", apierrors.IsBadRequest},
		{"silent", "attach", "stdout=true", apierrors.IsServiceUnavailable},
		{"silent", "attach", "", apierrors.IsBadRequest},
		{"silent", "portforward", "ports=80", apierrors.IsServiceUnavailable},
		{"silent", "portforward", "ports=x", apierrors.IsBadRequest},
	} {
		q, err := url.ParseQuery(try.query)
		if err != nil {
			t.Fatal(err)
		}
		req := c.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name(try.pod).SubResource(try.subresource)
		for name, values := range q {
			req.Param(name, values[0])
		}
		if err := req.Do(t.Context()).Error(); !try.is(err) {
			t.Errorf("%s of %s with %q: %v", try.subresource, try.pod, try.query, err)
		}
	}
}
