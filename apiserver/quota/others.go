package quota

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/kubernetes"
)

// lister is what typed clients of all kinds have.
type lister[L runtime.Object] interface {
	List(ctx context.Context, options metav1.ListOptions) (L, error)
}

// listing lists a namespace with a typed client. The library's function carries no
// context; what is read is this node's own replica, which answers at once.
func listing[C lister[L], L runtime.Object](of func(namespace string) C) generic.ListFuncByNamespace {
	return func(namespace string) ([]runtime.Object, error) {
		list, err := of(namespace).List(context.Background(), metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return nil, err
		}
		return meta.ExtractList(list)
	}
}

func legacy(client kubernetes.Interface) map[string]generic.ListFuncByNamespace {
	c := client.CoreV1()
	return map[string]generic.ListFuncByNamespace{
		"configmaps": listing(c.ConfigMaps), "resourcequotas": listing(c.ResourceQuotas),
		"replicationcontrollers": listing(c.ReplicationControllers), "secrets": listing(c.Secrets),
	}
}

func services(client kubernetes.Interface) quota.Evaluator {
	known := []corev1.ResourceName{corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers}
	return &evaluator{
		resource: corev1.Resource("services"), list: listing(client.CoreV1().Services), handles: written,
		matches: func(name corev1.ResourceName) bool { return quota.Contains(known, name) },
		scope:   generic.MatchesNoScopeFunc,
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			service, ok := obj.(*corev1.Service)
			if !ok {
				return nil, fmt.Errorf("expect *v1.Service, got %T", obj)
			}
			ports, balancers := 0, int64(0)
			switch service.Spec.Type {
			case corev1.ServiceTypeNodePort:
				ports = len(service.Spec.Ports)
			case corev1.ServiceTypeLoadBalancer:
				ports, balancers = len(service.Spec.Ports), 1
				if a := service.Spec.AllocateLoadBalancerNodePorts; a != nil && !*a {
					ports = 0
					for _, p := range service.Spec.Ports {
						if p.NodePort != 0 {
							ports++
						}
					}
				}
			}
			return corev1.ResourceList{
				corev1.ResourceServices: one, corev1.ResourceServicesNodePorts: number(int64(ports)), corev1.ResourceServicesLoadBalancers: number(balancers),
			}, nil
		},
	}
}

func number(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.DecimalSI) }

// byClass is between the name of a StorageClass and what of it is bounded.
const byClass = ".storageclass.storage.k8s.io/"

func claims(client kubernetes.Interface) quota.Evaluator {
	known := []corev1.ResourceName{corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage}
	return &evaluator{
		resource: corev1.Resource("persistentvolumeclaims"), list: listing(client.CoreV1().PersistentVolumeClaims),
		handles: func(a admission.Attributes) bool { return written(a) || grows(a) },
		matches: func(name corev1.ResourceName) bool {
			_, of, ok := strings.Cut(string(name), byClass)
			return quota.Contains(known, name) || ok && quota.Contains(known, corev1.ResourceName(of))
		},
		scope: claimScope,
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			claim, err := claimOf(obj)
			if err != nil {
				return nil, err
			}
			out := corev1.ResourceList{corev1.ResourcePersistentVolumeClaims: one}
			if size, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]; ok {
				if got, ok := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok && got.Cmp(size) > 0 {
					size = got
				}
				size = size.DeepCopy()
				size.RoundUp(0) // quotas count whole bytes
				out[corev1.ResourceRequestsStorage] = size
			}
			if class := storageClass(claim); class != "" {
				for _, name := range known {
					if q, ok := out[name]; ok {
						out[corev1.ResourceName(class+byClass)+name] = q
					}
				}
			}
			return out, nil
		},
	}
}

func claimOf(obj runtime.Object) (*corev1.PersistentVolumeClaim, error) {
	claim, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok {
		return nil, fmt.Errorf("expect *v1.PersistentVolumeClaim, got %T", obj)
	}
	return claim, nil
}

// grows: whoever enlarges a volume says so in the claim's status.
func grows(a admission.Attributes) bool {
	now, err := claimOf(a.GetObject())
	old, errOld := claimOf(a.GetOldObject())
	return a.GetSubresource() == "status" && err == nil && errOld == nil &&
		(!apiequality.Semantic.DeepEqual(now.Status.AllocatedResources, old.Status.AllocatedResources) || !apiequality.Semantic.DeepEqual(attributes(now), attributes(old)))
}

func storageClass(claim *corev1.PersistentVolumeClaim) string {
	if class, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	if claim.Spec.StorageClassName != nil {
		return *claim.Spec.StorageClassName
	}
	return ""
}

// attributes are the VolumeAttributesClasses that a claim has, had or shall have.
func attributes(claim *corev1.PersistentVolumeClaim) map[string]bool {
	names := map[string]bool{}
	for _, name := range []*string{claim.Spec.VolumeAttributesClassName, claim.Status.CurrentVolumeAttributesClassName} {
		if name != nil && *name != "" {
			names[*name] = true
		}
	}
	if m := claim.Status.ModifyVolumeStatus; m != nil && m.TargetVolumeAttributesClassName != "" {
		names[m.TargetVolumeAttributesClassName] = true
	}
	return names
}

func claimScope(r corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	claim, err := claimOf(obj)
	if err != nil || r.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false, err
	}
	s, err := selector(r)
	if err != nil {
		return false, err
	}
	names := attributes(claim)
	if len(names) == 0 {
		return s.Matches(labels.Set{}), nil
	}
	for name := range names {
		if s.Matches(labels.Set{string(r.ScopeName): name}) {
			return true, nil
		}
	}
	return false, nil
}

// byDevice follows the name of a DeviceClass.
const byDevice = ".deviceclass.resource.k8s.io/devices"

func resourceClaims(client kubernetes.Interface) quota.Evaluator {
	return &evaluator{
		resource: resourcev1.Resource("resourceclaims"), list: listing(client.ResourceV1().ResourceClaims), handles: created,
		matches: func(name corev1.ResourceName) bool { return strings.HasSuffix(string(name), byDevice) },
		scope:   generic.MatchesNoScopeFunc,
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			claim, ok := obj.(*resourcev1.ResourceClaim)
			if !ok {
				return nil, fmt.Errorf("expect *v1.ResourceClaim, got %T", obj)
			}
			return devices(claim), nil
		},
	}
}

// devices are the most that a claim can get of each class: of alternatives the
// largest, of "all" what fits into one claim.
func devices(claim *resourcev1.ResourceClaim) corev1.ResourceList {
	total := map[string]int64{}
	amount := func(mode resourcev1.DeviceAllocationMode, n int64) int64 {
		if mode == resourcev1.DeviceAllocationModeAll {
			return resourcev1.AllocationResultsMaxSize
		}
		return n
	}
	for _, r := range claim.Spec.Devices.Requests {
		if r.Exactly != nil {
			total[r.Exactly.DeviceClassName] += amount(r.Exactly.AllocationMode, r.Exactly.Count)
		}
		most := map[string]int64{}
		for _, s := range r.FirstAvailable {
			most[s.DeviceClassName] = max(most[s.DeviceClassName], amount(s.AllocationMode, s.Count))
		}
		for class, n := range most {
			total[class] += n
		}
	}
	out := corev1.ResourceList{}
	for class, n := range total {
		out[corev1.ResourceName(class+byDevice)] = number(n)
	}
	return out
}
