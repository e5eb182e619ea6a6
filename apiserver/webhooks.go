package apiserver

import (
	"net/http"
	"net/url"

	"go.opentelemetry.io/otel/trace/noop"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/rest"
	aggregatorserver "k8s.io/kube-aggregator/pkg/apiserver"
)

// newServiceResolver leads to the pods behind a Service, one at random: an API
// server is not in a pod, and needs no address translation to reach one.
func newServiceResolver(shared informers.SharedInformerFactory) (webhook.ServiceResolver, error) {
	slices, err := proxy.NewEndpointSliceIndexerGetter(shared.Discovery().V1().EndpointSlices())
	if err != nil {
		return nil, err
	}
	return aggregatorserver.NewEndpointServiceResolver(shared.Core().V1().Services().Lister(), slices), nil
}

// jsonClient is for clients of any kind: custom resources have no protobuf.
func (s *Server) jsonClient() *rest.Config {
	config := s.Client(self)
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	return config
}

// webhookClients is how webhooks are called: directly, never through a proxy of
// the environment, and this server itself in memory.
func (s *Server) webhookClients() webhook.AuthenticationInfoResolverWrapper {
	direct := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
	return webhook.NewDefaultAuthenticationInfoResolverWrapper(direct, nil, s.Client(self), noop.NewTracerProvider())
}
