package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	extensionsserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/healthz"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/util/notfoundhandler"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	aggregatorserver "k8s.io/kube-aggregator/pkg/apiserver"
	"k8s.io/kube-openapi/pkg/common"

	admit "kontiki/apiserver/admission"
	"kontiki/apiserver/apidocs"
	"kontiki/apiserver/openapi"
	"kontiki/apiserver/storage"
)

// chain puts servers together of which each passes on what it does not serve:
// the one for APIServices to the one for this project's kinds, that to the one for
// custom resources, and that to notFound. All share who may do what, admission, informers and discovery; each
// has a scheme and a configuration of its own, since the library changes those
// that it completes.
type chain struct {
	server        *Server
	cfg           Config
	authorization authorizer.Authorizer
	rules         authorizer.RuleResolver
	audited       audit.PolicyRuleEvaluator // nil: nothing is
	who           authenticator.Request
	admission     admission.Interface
	shared        informers.SharedInformerFactory
	discovery     aggregated.ResourceManager
	services      webhook.ServiceResolver
	namer         *apiopenapi.DefinitionNamer
	definitions   common.GetOpenAPIDefinitions            // one for all servers, while they are put together
	configs       []*genericapiserver.Config              // of all servers
	mapper        *restmapper.DeferredDiscoveryRESTMapper // the kinds of policies' parameters
	documents     *apidocs.List                           // of this project's kinds

	custom     *extensionsserver.CustomResourceDefinitions // the last of the chain
	aggregator *aggregatorserver.APIAggregator             // the first
}

// admit puts the admission plugins together.
func (c *chain) admit(client kubernetes.Interface) error {
	untyped, err := dynamic.NewForConfig(c.server.jsonClient())
	if err != nil {
		return err
	}
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	c.admission, err = admit.New(admit.Config{
		Client: client, Dynamic: untyped, Shared: c.shared,
		Authorizer: c.authorization,
		Mapper:     c.mapper,
		Version:    newAPIVersion(c.cfg.Version),
		Services:   c.services,
		Clients:    c.server.webhookClients(),
		Stopped:    c.server.stopped,

		Tolerations: *c.cfg.Tolerations,
	})
	return err
}

// forgetKinds lets policies find a kind that has come or changed: the mapper never
// looks again by itself.
func (c *chain) forgetKinds() error {
	reset := func() { c.mapper.Reset() }
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { reset() }, UpdateFunc: func(any, any) { reset() }, DeleteFunc: func(any) { reset() },
	}
	for _, informer := range []cache.SharedIndexInformer{
		c.custom.Informers.Apiextensions().V1().CustomResourceDefinitions().Informer(),
		c.aggregator.APIRegistrationInformers.Apiregistration().V1().APIServices().Informer(),
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	return nil
}

// config is a new configuration of one server.
func (c *chain) config(codecs serializer.CodecFactory, getter generic.RESTOptionsGetter) *genericapiserver.Config {
	gc := genericapiserver.NewConfig(codecs)
	gc.EffectiveVersion = newAPIVersion(c.cfg.Version)
	gc.ExternalAddress = "kubernetes.default.svc:443"
	gc.LoopbackClientConfig = c.server.Client(self)
	gc.RESTOptionsGetter = getter
	gc.MergedResourceConfig = serverstorage.NewResourceConfig()
	gc.Authentication.Authenticator = c.who
	gc.Authentication.APIAudiences = apiAudiences
	gc.Authorization.Authorizer, gc.RuleResolver = c.authorization, c.rules
	gc.AuditPolicyRuleEvaluator, gc.AuditBackend = c.audited, c.server.audit
	gc.AdmissionControl = c.admission
	gc.AggregatedDiscoveryGroupManager = c.discovery
	gc.LongRunningFunc = filters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"),
		sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	gc.BuildHandlerChainFunc = limited
	gc.EnableProfiling = false
	gc.DisabledPostStartHooks.Insert(definitionsHook)
	gc.AddReadyzChecks(healthz.NamedCheck(definitionsHook, c.definitionsKnown))
	gc.AddReadyzChecks(healthz.NamedCheck("shutting-down", func(*http.Request) error {
		if c.server.stopping.Load() {
			return fmt.Errorf("this node is stopping")
		}
		return nil
	}))
	gc.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(c.definitions, c.namer)
	gc.OpenAPIConfig.Info.Title = "Kubernetes"
	gc.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(c.definitions, c.namer)
	gc.OpenAPIV3Config.Info.Title = "Kubernetes"
	c.configs = append(c.configs, gc)
	return gc
}

// document serves the documents of this project's kinds, which are most of what there is to
// document. Those of the two other servers are the library's, which changes them as definitions come and go.
func (c *chain) document(own *genericapiserver.GenericAPIServer, completed genericapiserver.CompletedConfig) {
	c.documents = apidocs.Install(own.Handler.GoRestfulContainer, own.Handler.NonGoRestfulMux,
		func() *common.Config {
			config := *completed.OpenAPIConfig
			config.GetDefinitions = openapi.GetOpenAPIDefinitions
			return &config
		},
		func() *common.OpenAPIV3Config {
			config := *completed.OpenAPIV3Config
			config.GetDefinitions = openapi.GetOpenAPIDefinitions
			config.Definitions = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, c.namer).Definitions
			return &config
		})
}

// forgetDefinitions lets go of what the servers were put together with. They keep
// their configurations, which hold several megabytes of it.
func (c *chain) forgetDefinitions() {
	c.definitions = nil
	for _, gc := range c.configs {
		gc.OpenAPIConfig.GetDefinitions, gc.OpenAPIV3Config.GetDefinitions = openapi.GetOpenAPIDefinitions, openapi.GetOpenAPIDefinitions
		gc.OpenAPIV3Config.Definitions = nil
	}
}

// notFound is the end of the chain. Until all servers know their paths it asks
// clients to come back: a garbage collector that is told "no such kind" too early
// would draw wrong conclusions.
func (c *chain) notFound(codecs serializer.CodecFactory) genericapiserver.DelegationTarget {
	complete := func(context.Context) bool {
		for name, signal := range c.server.generic.MuxAndDiscoveryCompleteSignals() {
			if name == definitionsUnknown {
				continue // its sender is disabled, see definitionsKnown
			}
			select {
			case <-signal:
			default:
				return false
			}
		}
		return c.definitionsKnown(nil) == nil
	}
	return genericapiserver.NewEmptyDelegateWithCustomHandler(notfoundhandler.New(codecs, complete))
}

// The library waits for definitions in a start-up hook, and ends the process when
// the server is stopped before that. definitionsKnown stands in for it.
const (
	definitionsHook    = "crd-informer-synced"
	definitionsUnknown = "CRDInformerHasNotSynced"
)

// definitionsKnown fails until the server has read all CustomResourceDefinitions.
func (c *chain) definitionsKnown(*http.Request) error {
	if !c.custom.Informers.Apiextensions().V1().CustomResourceDefinitions().Informer().HasSynced() {
		return errors.New("CustomResourceDefinitions are not read yet")
	}
	return nil
}

// extensions serves CustomResourceDefinitions and the kinds that they define.
// Its controllers run on every node: they write conditions of definitions only
// when these change, with the resourceVersion they have seen, so that of two
// nodes one writes and the other finds it done.
func (c *chain) extensions(store storage.Backend, next genericapiserver.DelegationTarget) (err error) {
	getter, err := storage.NewRESTOptions(storage.RESTOptionsConfig{
		Store:      store,
		Serializer: extensionsserver.Codecs,
		Encoding:   serverstorage.NewDefaultResourceEncodingConfig(extensionsserver.Scheme),
	})
	if err != nil {
		return err
	}
	gc := c.config(extensionsserver.Codecs, getter)
	gc.MergedResourceConfig = extensionsserver.DefaultAPIResourceConfigSource()
	config := extensionsserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: *gc, SharedInformerFactory: c.shared},
		ExtraConfig: extensionsserver.ExtraConfig{
			CRDRESTOptionsGetter: getter.CustomResources(),
			// More than one would hold every new kind back for five seconds, until
			// slow watches have told all servers. Here all have it milliseconds later.
			MasterCount:         1,
			ServiceResolver:     c.services,
			AuthResolverWrapper: c.server.webhookClients(),
		},
	}
	c.custom, err = config.Complete().New(next)
	return err
}
