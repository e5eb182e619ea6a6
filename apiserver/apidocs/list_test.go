package apidocs

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/kube-openapi/pkg/common"

	"kontiki/apiserver/openapi"
)

// routed is a container with web services at these paths.
func routed(paths ...string) *restful.Container {
	c := restful.NewContainer()
	for _, path := range paths {
		service := new(restful.WebService).Path(path)
		service.Route(service.GET("/").To(func(*restful.Request, *restful.Response) {}).Returns(200, "OK", "").Operation("read" + strings.ReplaceAll(path, "/", "")))
		c.Add(service)
	}
	return c
}

// TestListWithHashes wants no document to be made before a client asks for their list, which
// then has their hashes, and beside them what the aggregator has of other servers.
func TestListWithHashes(t *testing.T) {
	made := 0
	m := mux.NewPathRecorderMux("test")
	l := Install(routed("/apis/apps/v1", "/version"), m, nil, func() *common.OpenAPIV3Config {
		made++
		return &common.OpenAPIV3Config{GetDefinitions: openapi.GetOpenAPIDefinitions}
	})
	const others = `"apis/sea.example/v1":{"serverRelativeURL":"/openapi/v3/apis/sea.example/v1?hash=0"}`
	plain := `{"paths":{"apis/apps/v1":{"serverRelativeURL":"/openapi/v3/apis/apps/v1"},"version":{"serverRelativeURL":"/openapi/v3/version"}}}`
	if w := get(m, "/openapi/v3", ""); w.Code != http.StatusOK || w.Body.String() != plain || made != 0 {
		t.Fatalf("the aggregator is told: %d %s; documents were made %d times", w.Code, w.Body, made)
	}

	status := http.StatusServiceUnavailable
	clients := l.WithHashes(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != v3Path:
			http.Error(w, "passed on", http.StatusTeapot)
		case r.Method != http.MethodGet || len(r.Header) > 0:
			http.Error(w, "the whole list is needed", http.StatusBadRequest)
		case status != http.StatusOK:
			http.Error(w, "not yet", status)
		default:
			_, _ = io.WriteString(w, strings.Replace(plain, `"version"`, others+`,"version"`, 1))
		}
	}))
	if w := get(clients, "/openapi/v3/apis/apps/v1", ""); w.Code != http.StatusTeapot || made != 0 {
		t.Fatalf("another path: %d %s; documents were made %d times", w.Code, w.Body, made)
	}
	if w := get(clients, "/openapi/v3", ""); w.Code != status || w.Body.String() != "not yet\n" {
		t.Fatalf("a list that cannot be had: %d %s", w.Code, w.Body)
	}
	status = http.StatusOK
	want := get(l.from, "/openapi/v3", "").Body.String() // the library's
	if strings.Count(want, "?hash=") != 2 {
		t.Fatalf("the library's list is %s", want)
	}
	want = strings.Replace(want, `"version"`, others+`,"version"`, 1)
	for range 2 {
		// The first who asks may know a list already.
		if w := get(clients, "/openapi/v3", `"hash"`); w.Code != http.StatusOK || w.Body.String() != want {
			t.Fatalf("%d %s, not %s", w.Code, w.Body, want)
		}
	}
	if made != 1 {
		t.Errorf("documents were made %d times", made)
	}
	head := httptest.NewRecorder()
	clients.ServeHTTP(head, httptest.NewRequest("HEAD", "/openapi/v3", nil))
	if head.Code != http.StatusOK || head.Body.Len() > 0 {
		t.Errorf("HEAD: %d %s", head.Code, head.Body)
	}
}

// TestListThatCannotBeHad passes on what is wrong, and asks again the next time.
func TestListThatCannotBeHad(t *testing.T) {
	status, asked := http.StatusInternalServerError, 0
	l := &List{container: routed("/version"), from: answers(&status, &asked)}
	clients := l.WithHashes(l)
	if w := get(clients, "/openapi/v3", ""); w.Code != status || w.Body.String() != "not yet\n" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	status = http.StatusOK
	for range 2 {
		// The list that is there names no version: it cannot be built.
		if w := get(clients, "/openapi/v3", ""); w.Code != http.StatusOK || w.Body.String() != `{"paths":{}}` {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if asked != 2 {
		t.Errorf("the list was made %d times", asked)
	}
}
