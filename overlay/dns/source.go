package dns

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"kontiki/overlay/service"
)

// Source is what is known of the cluster. Objects are read only.
type Source interface {
	Service(namespace, name string) *corev1.Service // nil: none
	Slices(namespace, name string) []*discoveryv1.EndpointSlice
	HasNamespace(namespace string) bool // with at least one Service; costs as many steps as it has
	ServicesAt(addr netip.Addr) []*corev1.Service
	SlicesAt(addr netip.Addr) []*discoveryv1.EndpointSlice
	// Synced says whether all is known; before, that a name is not found means nothing.
	Synced() bool
}

// Names of the indexes that Informers needs.
const (
	ByClusterIP = "clusterIP"
	ByAddress   = "address"
)

// Indexers returns the indexes of Services and of EndpointSlices that Informers
// needs, besides service.ByService and cache.NamespaceIndex.
func Indexers() (services, slices cache.Indexers) {
	return cache.Indexers{ByClusterIP: func(obj any) ([]string, error) {
			svc, ok := obj.(*corev1.Service)
			if !ok || svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
				return nil, nil
			}
			if len(svc.Spec.ClusterIPs) > 0 {
				return svc.Spec.ClusterIPs, nil
			}
			return []string{svc.Spec.ClusterIP}, nil
		}}, cache.Indexers{ByAddress: func(obj any) ([]string, error) {
			slice, ok := obj.(*discoveryv1.EndpointSlice)
			if !ok {
				return nil, nil
			}
			var out []string
			for _, ep := range slice.Endpoints {
				out = append(out, ep.Addresses...)
			}
			return out, nil
		}}
}

// Informers is a Source over informers with the indexes above.
type Informers struct {
	ServiceInformer, SliceInformer cache.SharedIndexInformer
}

// Service implements Source.
func (s Informers) Service(namespace, name string) *corev1.Service {
	obj, ok, err := s.ServiceInformer.GetStore().GetByKey(namespace + "/" + name)
	if err != nil || !ok {
		return nil
	}
	svc, _ := obj.(*corev1.Service)
	return svc
}

// Slices implements Source.
func (s Informers) Slices(namespace, name string) []*discoveryv1.EndpointSlice {
	return lookup[*discoveryv1.EndpointSlice](s.SliceInformer, service.ByService, namespace+"/"+name)
}

// HasNamespace implements Source.
func (s Informers) HasNamespace(namespace string) bool {
	keys, err := s.ServiceInformer.GetIndexer().IndexKeys(cache.NamespaceIndex, namespace)
	return err == nil && len(keys) > 0
}

// ServicesAt implements Source.
func (s Informers) ServicesAt(addr netip.Addr) []*corev1.Service {
	return lookup[*corev1.Service](s.ServiceInformer, ByClusterIP, addr.String())
}

// SlicesAt implements Source.
func (s Informers) SlicesAt(addr netip.Addr) []*discoveryv1.EndpointSlice {
	return lookup[*discoveryv1.EndpointSlice](s.SliceInformer, ByAddress, addr.String())
}

// Synced implements Source.
func (s Informers) Synced() bool {
	return s.ServiceInformer.HasSynced() && s.SliceInformer.HasSynced()
}

func lookup[T any](informer cache.SharedIndexInformer, index, key string) []T {
	objs, err := informer.GetIndexer().ByIndex(index, key)
	if err != nil {
		return nil
	}
	out := make([]T, 0, len(objs))
	for _, o := range objs {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	return out
}
