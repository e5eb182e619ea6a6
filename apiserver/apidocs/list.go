package apidocs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apiserver/pkg/util/responsewriter"
	"k8s.io/kube-openapi/pkg/handler3"
)

// List is that of a server's OpenAPI v3 documents. The library's aggregator asks for it when
// a node starts, and each second from then on, to know which documents are this server's; it
// is told their paths, which costs nothing. Hashes, for which every document has to be
// made, are put into what the aggregator tells clients (WithHashes), who alone use them.
type List struct {
	container *restful.Container
	from      http.Handler // of the documents, and of the list with hashes

	mu     sync.Mutex
	hashed paths // nil: nobody has asked yet. Routes are fixed, so it never changes
}

// paths says where documents are, by group version.
type paths = map[string]handler3.OpenAPIV3DiscoveryGroupVersion

// ServeHTTP answers the aggregator.
func (l *List) ServeHTTP(w http.ResponseWriter, r *http.Request) { answer(w, r, l.plain()) }

// plain is the list without hashes.
func (l *List) plain() paths {
	all := paths{}
	for _, served := range l.container.RegisteredWebServices() {
		gv := strings.TrimPrefix(served.RootPath(), "/")
		all[gv] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: path.Join(v3Path, gv)}
	}
	return all
}

// WithHashes puts the hashes of this server's documents into the list of all servers'
// documents with which next, the aggregator, answers clients.
func (l *List) WithHashes(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != v3Path {
			next.ServeHTTP(w, r)
			return
		}
		own, ok := l.ask(w, r)
		if !ok {
			return
		}
		all, ok := read(next, w, r)
		if !ok {
			return
		}
		for gv := range l.plain() {
			if at, made := own[gv]; made {
				all[gv] = at
			} else {
				delete(all, gv) // it cannot be built, which the library has logged
			}
		}
		answer(w, r, all)
	})
}

// ask returns the list with hashes. If it cannot be had, ask passes on why and returns false,
// and the next request tries again.
func (l *List) ask(w http.ResponseWriter, r *http.Request) (paths, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hashed == nil {
		l.hashed, _ = read(l.from, w, r)
	}
	return l.hashed, l.hashed != nil
}

// read asks a handler for its list. If it has none, read passes on why and returns false.
func read(from http.Handler, w http.ResponseWriter, r *http.Request) (paths, bool) {
	whole := r.Clone(r.Context())
	whole.Method, whole.Header = http.MethodGet, http.Header{} // whatever this client knows of it
	said := responsewriter.NewInMemoryResponseWriter()
	from.ServeHTTP(said, whole)
	if said.RespCode() != http.StatusOK {
		maps.Copy(w.Header(), said.Header())
		w.WriteHeader(said.RespCode())
		_, _ = w.Write(said.Data()) // an error is the client's having gone
		return nil, false
	}
	var list handler3.OpenAPIV3Discovery
	if err := json.Unmarshal(said.Data(), &list); err != nil || list.Paths == nil {
		http.Error(w, fmt.Sprintf("the list of OpenAPI documents cannot be read: %v", err), http.StatusInternalServerError)
		return nil, false
	}
	return list.Paths, true
}

func answer(w http.ResponseWriter, r *http.Request, all paths) {
	body, err := json.Marshal(handler3.OpenAPIV3Discovery{Paths: all})
	if err != nil {
		http.Error(w, fmt.Sprintf("the list of OpenAPI documents cannot be written: %v", err), http.StatusInternalServerError)
		return
	}
	http.ServeContent(w, r, v3Path, time.Now(), bytes.NewReader(body))
}
