// Package admission holds the admission plugins that are not the library's and
// puts the chain together.
//
// A chain is built once and then used by any number of goroutines. Only
// apiserver imports it.
package admission

import (
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

// immortal namespaces cannot be deleted; the system needs them.
var immortal = sets.New("default", "kube-system", "kube-public")

// New returns the chain in upstream's order. Informers it needs are registered
// with shared, which the caller starts.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory) (admission.Interface, error) {
	namespaces, err := lifecycle.NewLifecycle(immortal)
	if err != nil {
		return nil, err
	}
	namespaces.SetExternalKubeClientSet(client)
	namespaces.SetExternalKubeInformerFactory(shared)
	if err := namespaces.ValidateInitialization(); err != nil {
		return nil, err
	}
	return admission.NewChainHandler(namespaces, newDefaultTolerations()), nil
}
