package pod

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// Objects gives what pods of this node refer to.
// Errors are the API's; what it returns must not be changed.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// RuntimeHandler is the handler that a RuntimeClass names.
	RuntimeHandler(ctx context.Context, class string) (string, error)
	Token(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error)
	// Claimed is the volume that a claim of the pod is bound to, ready to be
	// mounted on this node; the error says why there is none.
	Claimed(ctx context.Context, pod *corev1.Pod, claim string) (*corev1.PersistentVolume, error)
}

// sources is everything a container's variables and volumes are made of.
type sources struct {
	ctx         context.Context
	pod         *corev1.Pod
	objects     Objects
	services    func(namespace string) []*corev1.Service // of the namespace, and default/kubernetes
	hostIPs     []string
	podIPs      []string
	allocatable corev1.ResourceList
}
