// Package apidocs serves a server's OpenAPI documents without keeping them: they are
// tens of megabytes of structures that somebody asks for now and then. They are built
// by the library, from the server's routes, when they are asked for, and given up a minute
// after the last question. The list of OpenAPI v3 documents (List) has their hashes, and so is
// made of all of them; it is made once, when a client first asks for it.
//
// Handlers may be used by any number of goroutines. Only apiserver imports this package.
package apidocs

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
)

// keep is how long documents stay that nobody asks for: a client reads several.
const keep = time.Minute

// Paths of the documents, the library's.
const (
	v2Path = "/openapi/v2"
	v3Path = "/openapi/v3"
)

// Install serves the documents of the routes in a container below their usual paths. The
// container must have its routes by the first request. V2 and v3 make configurations, since
// what they hold of definitions is to be given up with the documents.
func Install(container *restful.Container, mux *mux.PathRecorderMux, v2 func() *common.Config, v3 func() *common.OpenAPIV3Config) *List {
	mux.Handle(v2Path, newLate(func(m *muxOf) { installV2(container, m, v2()) }))
	documents := newLate(func(m *muxOf) { routes.OpenAPI{V3Config: v3()}.InstallV3(container, m) })
	l := &List{container: container, from: documents}
	mux.Handle(v3Path, l)
	mux.HandlePrefix(v3Path+"/", documents)
	return l
}

// installV2 is the library's InstallV2, which ends the process if the document cannot be built.
func installV2(container *restful.Container, m *muxOf, config *common.Config) {
	document, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(container.RegisteredWebServices()), config)
	if err != nil {
		m.Handle(v2Path, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, fmt.Sprintf("the OpenAPI document cannot be built: %v", err), http.StatusInternalServerError)
		}))
		return
	}
	document.Definitions = handler.PruneDefaults(document.Definitions)
	handler.NewOpenAPIService(document).RegisterOpenAPIVersionedService(v2Path, m)
}

// muxOf is what the library puts its handlers into.
type muxOf = mux.PathRecorderMux

// late is a handler that exists while it is in use.
type late struct {
	install func(*muxOf)

	mu   sync.Mutex
	made http.Handler
	idle *time.Timer // gives made up
}

func newLate(install func(*muxOf)) *late {
	l := &late{install: install}
	l.idle = time.AfterFunc(keep, l.giveUp)
	l.idle.Stop()
	return l
}

func (l *late) ServeHTTP(w http.ResponseWriter, r *http.Request) { l.handler().ServeHTTP(w, r) }

// handler makes the handler if there is none. Who asks meanwhile waits.
func (l *late) handler() http.Handler {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.made == nil {
		m := mux.NewPathRecorderMux("openapi")
		l.install(m)
		l.made = m
	}
	l.idle.Reset(keep)
	return l.made
}

func (l *late) giveUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made = nil
}
