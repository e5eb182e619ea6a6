package admission

import (
	"sync"

	arv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/openapi"
	"k8s.io/client-go/tools/cache"
)

// schemaClient is a client for the plugin of MutatingAdmissionPolicies. That asks
// for the list of all schemas every five seconds, which makes the server build
// every one of them; here the question waits until there is a policy.
type schemaClient struct {
	kubernetes.Interface
	wanted  <-chan struct{} // closed when there has been a policy
	stopped <-chan struct{}
}

func newSchemaClient(cfg Config) (schemaClient, error) {
	wanted := make(chan struct{})
	closed := sync.OnceFunc(func() { close(wanted) })
	_, err := policies(cfg.Shared).AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) {
		if _, ok := obj.(*arv1.MutatingAdmissionPolicy); ok {
			closed()
		}
	}})
	return schemaClient{cfg.Client, wanted, cfg.Stopped}, err
}

func policies(shared informers.SharedInformerFactory) cache.SharedIndexInformer {
	return shared.Admissionregistration().V1().MutatingAdmissionPolicies().Informer()
}

// Discovery implements kubernetes.Interface.
func (c schemaClient) Discovery() discovery.DiscoveryInterfaces {
	return schemaDiscovery{c.Interface.Discovery(), c}
}

type schemaDiscovery struct {
	discovery.DiscoveryInterfaces
	client schemaClient
}

// OpenAPIV3 implements discovery.OpenAPIV3SchemaInterface.
func (d schemaDiscovery) OpenAPIV3() openapi.Client {
	return waitingSchemas{d.DiscoveryInterfaces.OpenAPIV3(), d.client}
}

type waitingSchemas struct {
	openapi.Client
	client schemaClient
}

// Paths implements openapi.Client.
func (w waitingSchemas) Paths() (map[string]openapi.GroupVersion, error) {
	select {
	case <-w.client.wanted:
		return w.Client.Paths()
	case <-w.client.stopped:
		return nil, nil
	}
}
