package apiserver

import (
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
)

// How many requests of a class may be under way at once; upstream's defaults for
// all requests together.
const (
	maxReads  = 400
	maxWrites = 200
)

// inflight bounds the requests that are under way, for each class by itself: what
// users do takes nothing away from the cluster's own components, and these nothing
// from the administrator and the server itself, who are never refused. Watches and
// streams are not counted.
type inflight struct {
	next       http.Handler
	long       request.LongRunningRequestCheck
	serializer runtime.NegotiatedSerializer
	system     class
	users      class
}

// class holds a token for every request under way.
type class struct{ reads, writes chan struct{} }

func newClass(reads, writes int) class {
	return class{make(chan struct{}, reads), make(chan struct{}, writes)}
}

// limited is a genericapiserver.Config.BuildHandlerChainFunc: the library's chain
// with inflight in place of the library's limits, which know one class.
func limited(handler http.Handler, c *genericapiserver.Config) http.Handler {
	c.MaxRequestsInFlight, c.MaxMutatingRequestsInFlight = 0, 0
	return genericapiserver.DefaultBuildHandlerChain(&inflight{
		next: handler, long: c.LongRunningFunc, serializer: c.Serializer,
		system: newClass(maxReads, maxWrites), users: newClass(maxReads, maxWrites),
	}, c)
}

// ServeHTTP implements http.Handler.
func (f *inflight) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	info, known := request.RequestInfoFrom(r.Context())
	u, named := request.UserFrom(r.Context())
	if !known || !named || f.long(r, info) || free(u) {
		f.next.ServeHTTP(w, r)
		return
	}
	of := f.users
	if component(u) {
		of = f.system
	}
	tokens := of.writes
	switch info.Verb {
	case "get", "list", "watch":
		tokens = of.reads
	}
	select {
	case tokens <- struct{}{}:
		defer func() { <-tokens }()
		f.next.ServeHTTP(w, r)
	default:
		w.Header().Set("Retry-After", "1")
		err := apierrors.NewTooManyRequests("The server has received too many requests and has asked us to try again later", 1)
		gv := schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}
		responsewriters.ErrorNegotiated(err, f.serializer, gv, w, r)
	}
}

// free tells who is never refused: someone must be able to repair an overloaded
// cluster.
func free(u user.Info) bool {
	return u.GetName() == user.APIServerUser || slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup)
}

// component tells the cluster's own components from users.
func component(u user.Info) bool {
	switch u.GetName() {
	case user.KubeControllerManager, user.KubeScheduler:
		return true
	}
	return slices.Contains(u.GetGroups(), user.NodesGroup)
}
