package authz

import (
	"context"
	"fmt"
	"iter"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
)

// local reads this node's replica, with or without a quorum.
var local = metav1.GetOptions{ResourceVersion: "0"}

// listing makes a typed list function one of a cache.ListWatch.
func listing[T runtime.Object](list func(context.Context, metav1.ListOptions) (T, error)) func(context.Context, metav1.ListOptions) (runtime.Object, error) {
	return func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return list(ctx, options)
	}
}

// podsOf are the pods of a node in a namespace as the replica has them now. To
// ask costs no more than the list of its pods, which every node may make.
func (n *Nodes) podsOf(ctx context.Context, node, namespace string) iter.Seq2[*corev1.Pod, error] {
	return func(yield func(*corev1.Pod, error) bool) {
		list, err := n.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{
			ResourceVersion: "0", FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String(),
		})
		if err != nil {
			yield(nil, fmt.Errorf("look up the pods of node '%s': %w", node, err))
			return
		}
		for i := range list.Items {
			if !yield(&list.Items[i], nil) {
				return
			}
		}
	}
}

// volumeOf is the volume that is bound to a claim, by its own word.
func (n *Nodes) volumeOf(ctx context.Context, namespace, claim string) (*corev1.PersistentVolume, error) {
	pvc, err := n.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, claim, local)
	if err != nil {
		return nil, err
	}
	pv, err := n.client.CoreV1().PersistentVolumes().Get(ctx, pvc.Spec.VolumeName, local)
	if err != nil {
		return nil, err
	}
	if ref := pv.Spec.ClaimRef; ref == nil || ref.Namespace != namespace || ref.Name != claim {
		return nil, fmt.Errorf("volume %s is not bound to claim %s/%s", pv.Name, namespace, claim)
	}
	return pv, nil
}
