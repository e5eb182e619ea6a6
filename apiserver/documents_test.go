package apiserver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/kube-openapi/pkg/handler3"

	"kontiki/raftstore/raftstoretest"
)

// TestDocumentsOfTwoServers wants every OpenAPI v3 document under the hash that the list
// tells, and one hash for it on all servers: clients keep documents by their hash, and
// ask now this node, now another.
func TestDocumentsOfTwoServers(t *testing.T) {
	one, other := v3Documents(t, startServer(t, raftstoretest.New(t))), v3Documents(t, startServer(t, raftstoretest.New(t)))
	if len(one) < 30 || one["apis/apps/v1"] == "" {
		t.Fatalf("%d documents", len(one))
	}
	for path, hash := range one {
		if other[path] != hash {
			t.Errorf("%s has hash %s on one server and %q on another", path, hash, other[path])
		}
	}
}

// v3Documents reads all documents of a server, and returns hashes of their contents.
func v3Documents(t *testing.T, s *Server) map[string]string {
	config := jsonConfig(s)
	config.GroupVersion, config.NegotiatedSerializer = &schema.GroupVersion{}, scheme.Codecs.WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	body, err := client.Get().AbsPath("/openapi/v3").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var list handler3.OpenAPIV3Discovery
	if err := json.Unmarshal(body, &list); err != nil {
		t.Fatal(err)
	}
	hashes := map[string]string{}
	for path, at := range list.Paths {
		if !strings.Contains(at.ServerRelativeURL, "?hash=") {
			t.Errorf("%s has no hash: %s", path, at.ServerRelativeURL)
		}
		code := 0
		body, err := client.Get().RequestURI(at.ServerRelativeURL).Do(t.Context()).StatusCode(&code).Raw()
		if err != nil || code != 200 || !json.Valid(body) {
			t.Errorf("%s: %d %v", at.ServerRelativeURL, code, err)
		}
		sum := sha256.Sum256(body)
		hashes[path] = hex.EncodeToString(sum[:])
	}
	return hashes
}
