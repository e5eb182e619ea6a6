package core

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	policyclient "k8s.io/client-go/kubernetes/typed/policy/v1"

	"kontiki/apiserver/allocate"
	"kontiki/apiserver/kind"
)

// Config is what kinds of this group need besides the store.
type Config struct {
	Ledger *allocate.Ledger
	// ClusterIPs has the address families of the cluster's Services, the default first.
	ClusterIPs []*allocate.IPs
	NodePorts  *allocate.Ports
	Agents     AgentTransport // may be nil
	// Budgets are the disruption budgets that evictions keep to.
	Budgets policyclient.PodDisruptionBudgetsGetter
	// Slices tell which pods are behind a Service.
	Slices discoveryclient.EndpointSlicesGetter
	// Pods have the addresses that Slices are not believed alone.
	Pods coreclient.PodsGetter
	// TokenRequests serves serviceaccounts/token; nil leaves it out.
	TokenRequests rest.Storage
	// Authorizer is asked where a request's own verb says too little; may be nil.
	Authorizer authorizer.Authorizer
}

// Group describes the group.
func Group(cfg Config) kind.Group {
	return kind.Group{
		Name:        corev1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: func(scheme *runtime.Scheme) error { return errors.Join(corev1.AddToScheme(scheme), addQueries(scheme)) },
		Kinds: map[string][]kind.Definition{"v1": {
			namespaces(),
			nodes(cfg),
			pods(cfg),
			services(cfg),
			endpoints(),
			configMaps(),
			secrets(),
			serviceAccounts(cfg.TokenRequests),
			Events(nil),
			replicationControllers(),
			podTemplates(),
			persistentVolumes(),
			persistentVolumeClaims(),
			resourceQuotas(),
			limitRanges(),
		}},
	}
}
