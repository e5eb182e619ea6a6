package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"

	networkingv1 "k8s.io/api/networking/v1"
	extensionsserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/client-go/informers"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"

	"kontiki/apiserver/allocate"
	"kontiki/apiserver/authz"
	"kontiki/apiserver/core"
	"kontiki/apiserver/kind"
	"kontiki/apiserver/openapi"
	"kontiki/apiserver/storage"
	"kontiki/apiserver/tokens"
)

// self is who the server is to itself.
var self = &user.DefaultInfo{Name: user.APIServerUser}

// Server is the API server of one node.
type Server struct {
	handler  atomic.Pointer[http.Handler]
	generic  *genericapiserver.GenericAPIServer   // the first of the chain
	servers  []*genericapiserver.GenericAPIServer // all of the chain
	stop     func()                               // waits for informers
	nodes    *authz.Nodes
	issuer   *tokens.Issuer // nil: no key, no tokens
	audit    audit.Backend  // nil: nothing is noted
	bindings bindings       // for callers without HTTP
	stopping atomic.Bool
	stopped  chan struct{} // closed when Run stops
	log      *slog.Logger
}

// Handler serves the API. Requests that came over TLS carry it in r.TLS with
// the client's certificate not yet verified; the server does that.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*s.handler.Load()).ServeHTTP(w, r)
	})
}

// New puts a server together. It answers requests at once; admission needs Run.
func New(cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	s := &Server{log: cfg.Logger, stopped: make(chan struct{})}
	ledger := allocate.NewLedger(cfg.Store, cfg.Settings.serviceCIDRs()...)
	client, err := s.Clientset(self)
	if err != nil {
		return nil, err
	}
	shared := informers.NewSharedInformerFactory(client, 0)
	stored, err := authz.NewStored(shared.Rbac().V1(), authz.Defaults())
	if err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	roles := authz.New(stored)
	issuer, bearer, requests, err := newIssuer(cfg, client)
	if err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	s.issuer = issuer
	who := newAuthenticator(cfg, bearer)
	s.nodes = authz.NewNodes(client)
	authorize, err := union.New(union.NamedAuthorizer{AuthorizerName: "node", Authorizer: s.nodes}, union.NamedAuthorizer{AuthorizerName: "rbac", Authorizer: roles})
	if err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	rules := union.NewRuleResolvers(s.nodes, roles)
	groups := apiGroups(cfg, ledger, authorize, roles, rules, who, requests, client)
	scheme, err := newScheme(groups)
	if err != nil {
		return nil, err
	}
	codecs := serializer.NewCodecFactory(scheme)
	getter, err := newStorage(cfg, ledger, scheme, codecs)
	if err != nil {
		return nil, err
	}
	c := &chain{
		server: s, cfg: cfg, shared: shared,
		namer:         apiopenapi.NewDefinitionNamer(scheme, extensionsserver.Scheme, aggregatorscheme.Scheme),
		definitions:   openapi.Shared(),
		authorization: authorize, rules: rules, who: who,
		discovery: aggregated.NewResourceManager("apis"),
	}
	if c.audited, s.audit, err = cfg.Audit.open(); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	if c.services, err = newServiceResolver(shared); err != nil {
		return nil, err
	}
	if err := c.admit(client); err != nil {
		return nil, err
	}
	if err := c.extensions(cfg.Store, c.notFound(codecs)); err != nil {
		return nil, fmt.Errorf("apiserver: custom resources: %w", err)
	}
	config := c.config(codecs, getter)
	config.SkipOpenAPIInstallation = true // see document
	completed := config.Complete(shared)
	own, err := completed.New("kontiki", c.custom.GenericAPIServer)
	if err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	c.document(own, completed)
	served, err := install(own, groups, scheme, codecs, getter)
	if err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	if err := s.bindable(served, c, scheme, own.EquivalentResourceRegistry); err != nil {
		return nil, err
	}
	if err := discoverIssuer(own, issuer); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	if err := c.aggregate(cfg.Store, own); err != nil {
		return nil, fmt.Errorf("apiserver: APIServices: %w", err)
	}
	s.generic = c.aggregator.GenericAPIServer
	s.servers = []*genericapiserver.GenericAPIServer{s.generic, own, c.custom.GenericAPIServer}
	if err := c.prepare(); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	c.forgetDefinitions()
	s.stop = func() {
		shared.Shutdown()
		c.custom.Informers.Shutdown()
		c.aggregator.APIRegistrationInformers.Shutdown()
	}
	var handler http.Handler = s.generic.Handler
	s.handler.Store(&handler)
	return s, nil
}

// newStorage puts every resource on the store, with the ledger of allocated
// addresses below those that need it.
func newStorage(cfg Config, ledger *allocate.Ledger, scheme *runtime.Scheme, codecs serializer.CodecFactory) (generic.RESTOptionsGetter, error) {
	encoding := serverstorage.NewDefaultResourceEncodingConfig(scheme)
	getter, err := storage.NewRESTOptions(storage.RESTOptionsConfig{
		Store:      ledger,
		Serializer: codecs,
		Encoding:   encoding,
		Cohabitants: map[schema.GroupResource]schema.GroupResource{
			{Group: "events.k8s.io", Resource: "events"}: {Resource: "events"},
		},
		Transformers: cfg.Transformers,
	})
	if err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	shown, err := stored(getter, "ipaddresses", &networkingv1.IPAddress{})
	if err != nil {
		return nil, err
	}
	ranges, err := stored(getter, "servicecidrs", &networkingv1.ServiceCIDR{})
	if err != nil {
		return nil, err
	}
	ledger.Bind(shown, ranges)
	return allocate.Options{
		RESTOptionsGetter: getter,
		Holdings:          map[schema.GroupResource]allocate.Holdings{{Resource: "services"}: core.ServiceHoldings},
	}, nil
}

// stored is the stored form of a resource of networking.k8s.io.
func stored(getter generic.RESTOptionsGetter, resource string, example runtime.Object) (*storage.Objects, error) {
	opts, err := getter.GetRESTOptions(networkingv1.Resource(resource), example)
	if err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	return storage.NewObjects(opts), nil
}

// install serves the groups, and returns what serves core's first version.
func install(server *genericapiserver.GenericAPIServer, groups []kind.Group, scheme *runtime.Scheme, codecs serializer.CodecFactory, getter generic.RESTOptionsGetter) (kind.Storages, error) {
	var first kind.Storages
	parameters := runtime.NewParameterCodec(scheme)
	for _, group := range groups {
		info := genericapiserver.NewDefaultAPIGroupInfo(group.Name, scheme, parameters, codecs)
		for v, kinds := range group.Kinds {
			gv := schema.GroupVersion{Group: group.Name, Version: v}
			served := kind.Storages{}
			for _, k := range kinds {
				storages, err := k.Storages(scheme, gv, getter)
				if err != nil {
					return nil, err
				}
				for path, storage := range storages {
					served[path] = storage
				}
			}
			info.VersionedResourcesStorageMap[v] = served
		}
		var err error
		if group.Name == "" {
			first = info.VersionedResourcesStorageMap["v1"]
			err = server.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, &info)
		} else {
			err = server.InstallAPIGroup(&info)
		}
		if err != nil {
			return nil, fmt.Errorf("API group %q: %w", group.Name, err)
		}
	}
	return first, nil
}

// Run does the server's background work until ctx ends, then refuses new
// requests and returns when those under way have ended.
func (s *Server) Run(ctx context.Context) error {
	noted := make(chan struct{}) // closed when all requests have ended
	if s.audit != nil {
		if err := s.audit.Run(noted); err != nil {
			return fmt.Errorf("apiserver: start the audit log: %w", err)
		}
		defer s.audit.Shutdown()
	}
	defer close(noted)
	s.generic.RunPostStartHooks(ctx)
	var children sync.WaitGroup
	defer children.Wait()
	children.Go(func() { s.nodes.Follow(ctx) })
	if s.issuer != nil {
		children.Go(func() { s.issuer.Run(ctx) })
	}
	<-ctx.Done()
	s.stopping.Store(true)
	close(s.stopped)
	s.stop()
	s.generic.NonLongRunningRequestWaitGroup.Wait()
	for _, server := range s.servers {
		server.Destroy()
	}
	return nil
}
