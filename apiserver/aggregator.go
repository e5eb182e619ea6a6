package apiserver

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensionslisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorserver "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"

	"kontiki/apiserver/storage"
)

// FrontProxy is how this server shows aggregated API servers that it speaks for
// users which it has authenticated.
type FrontProxy struct {
	// CertFile and KeyFile are PEM files; both empty sends no certificate.
	CertFile, KeyFile string
	// CA signs such certificates. Who shows one is believed whom it speaks for, here
	// as by aggregated servers; nil believes nobody.
	CA *x509.CertPool
}

// aggregate puts the server of APIServices before next. It answers for the groups
// that an APIService gives to another server, and passes everything else on. Like
// those of custom resources, its controllers run on every node and write only
// what differs.
func (c *chain) aggregate(store storage.Backend, next *genericapiserver.GenericAPIServer) error {
	getter, err := storage.NewRESTOptions(storage.RESTOptionsConfig{
		Store:      store,
		Serializer: aggregatorscheme.Codecs,
		Encoding:   serverstorage.NewDefaultResourceEncodingConfig(aggregatorscheme.Scheme),
		MediaType:  runtime.ContentTypeJSON, // APIServices have no protobuf
	})
	if err != nil {
		return err
	}
	gc := c.config(aggregatorscheme.Codecs, getter)
	gc.MergedResourceConfig = aggregatorserver.DefaultAPIResourceConfigSource()
	gc.SkipOpenAPIInstallation = true // it shows the documents of all others instead
	gc.BuildHandlerChainFunc = func(handler http.Handler, gc *genericapiserver.Config) http.Handler {
		return limited(c.documents.WithHashes(handler), gc)
	}
	config := aggregatorserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: *gc, SharedInformerFactory: c.shared},
		ExtraConfig: aggregatorserver.ExtraConfig{
			ProxyClientCertFile:       c.cfg.FrontProxy.CertFile,
			ProxyClientKeyFile:        c.cfg.FrontProxy.KeyFile,
			ServiceResolver:           c.services,
			RejectForwardingRedirects: true,
		},
	}
	if c.aggregator, err = config.Complete().NewWithDelegate(next); err != nil {
		return err
	}
	if err := c.forgetKinds(); err != nil {
		return err
	}
	return c.registerOwn(next.ListedPaths())
}

// registerOwn keeps an APIService for every group version that this server answers
// itself, those of custom resources included.
func (c *chain) registerOwn(paths []string) error {
	client, err := aggregatorclient.NewForConfig(c.aggregator.GenericAPIServer.LoopbackClientConfig)
	if err != nil {
		return err
	}
	register := autoregister.NewAutoRegisterController(c.aggregator.APIRegistrationInformers.Apiregistration().V1().APIServices(), client.ApiregistrationV1())
	for _, gv := range groupVersions(paths) {
		register.AddAPIServiceToSyncOnStart(localService(gv))
	}
	definitions := c.custom.Informers.Apiextensions().V1().CustomResourceDefinitions()
	custom := customVersions{definitions.Lister(), register}
	handler, err := definitions.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    custom.changed,
		UpdateFunc: func(old, new any) { custom.changed(old); custom.changed(new) },
		DeleteFunc: custom.changed,
	})
	if err != nil {
		return err
	}
	return c.aggregator.GenericAPIServer.AddPostStartHook("kube-apiserver-autoregistration", func(ctx genericapiserver.PostStartHookContext) error {
		go func() {
			// APIServices of custom resources that are not known yet would be deleted.
			if cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
				register.Run(5, ctx.Done())
			}
		}()
		return nil
	})
}

// customVersions tells the autoregister controller which group versions
// CustomResourceDefinitions serve.
type customVersions struct {
	definitions extensionslisters.CustomResourceDefinitionLister
	register    autoregister.AutoAPIServiceRegistration
}

func (v customVersions) changed(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	def, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return
	}
	all, err := v.definitions.List(labels.Everything())
	if err != nil {
		return // a lister over memory has no errors
	}
	for _, version := range def.Spec.Versions {
		gv := schema.GroupVersion{Group: def.Spec.Group, Version: version.Name}
		if served(all, gv) {
			v.register.AddAPIServiceToSync(localService(gv))
		} else {
			v.register.RemoveAPIServiceToSync(serviceName(gv))
		}
	}
}

func served(definitions []*apiextensionsv1.CustomResourceDefinition, gv schema.GroupVersion) bool {
	for _, def := range definitions {
		if def.Spec.Group != gv.Group {
			continue
		}
		for _, version := range def.Spec.Versions {
			if version.Name == gv.Version && version.Served {
				return true
			}
		}
	}
	return false
}

// groupVersions are those that a server lists among its paths.
func groupVersions(paths []string) []schema.GroupVersion {
	var out []schema.GroupVersion
	for _, path := range paths {
		parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
		switch {
		case len(parts) == 2 && parts[0] == "api":
			out = append(out, schema.GroupVersion{Version: parts[1]})
		case len(parts) == 3 && parts[0] == "apis":
			out = append(out, schema.GroupVersion{Group: parts[1], Version: parts[2]})
		}
	}
	return out
}

func serviceName(gv schema.GroupVersion) string { return gv.Version + "." + gv.Group }

// groupOrder is the order in which clients that meet one resource in two groups
// prefer them; upstream's.
var groupOrder = map[string]int32{
	"": 18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700,
	"authorization.k8s.io": 17600, "autoscaling": 17500, "batch": 17400,
	"certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100,
	"rbac.authorization.k8s.io": 17000, "storage.k8s.io": 16800,
	"apiextensions.k8s.io": 16700, "admissionregistration.k8s.io": 16700,
	"scheduling.k8s.io": 16600, "coordination.k8s.io": 16500, "node.k8s.io": 16300,
	"discovery.k8s.io": 16200, "flowcontrol.apiserver.k8s.io": 16100, "resource.k8s.io": 15900,
	"storagemigration.k8s.io": 15800,
}

// localService is the APIService of a group version that the chain serves.
func localService(gv schema.GroupVersion) *apiregistrationv1.APIService {
	spec := apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: 1000, VersionPriority: 100}
	if order, ok := groupOrder[gv.Group]; ok {
		spec.GroupPriorityMinimum, spec.VersionPriority = order, 15
		switch {
		case gv.Group == "":
			spec.VersionPriority = 1
		case gv.Version == "v2":
			spec.VersionPriority = 30
		}
	}
	return &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: serviceName(gv)}, Spec: spec}
}

// prepare makes the whole chain ready to serve.
func (c *chain) prepare() error {
	if _, err := c.aggregator.PrepareRun(); err != nil {
		return fmt.Errorf("API documents: %w", err)
	}
	return nil
}
