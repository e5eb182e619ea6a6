package podcontrol

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"kontiki/controllers/podview"
)

// Claims says which pods belong to an owner and what has to be written for the
// others to be let go and new ones to be taken.
type Claims struct {
	Owned   []*corev1.Pod
	Adopt   []*corev1.Pod
	Release []*corev1.Pod
}

// Sort sorts candidates (pods controlled by owner, and orphans of its namespace)
// by whether they match. An owner on its way out neither adopts nor releases.
func Sort(owner metav1.Object, matches func(*corev1.Pod) bool, candidates []*corev1.Pod) Claims {
	var c Claims
	for _, pod := range candidates {
		holder := metav1.GetControllerOfNoCopy(pod)
		switch {
		case holder != nil && holder.UID != owner.GetUID():
		case holder != nil && matches(pod):
			c.Owned = append(c.Owned, pod)
		case holder != nil:
			if owner.GetDeletionTimestamp() == nil {
				c.Release = append(c.Release, pod)
			}
		case owner.GetDeletionTimestamp() == nil && podview.Active(pod) && matches(pod):
			c.Adopt = append(c.Adopt, pod)
		}
	}
	return c
}

// BySelector matches pods by their labels.
func BySelector(selector labels.Selector) func(*corev1.Pod) bool {
	return func(pod *corev1.Pod) bool { return selector.Matches(labels.Set(pod.Labels)) }
}

// Claim returns the pods the owner controls, after adopting and releasing.
func (c *Control) Claim(ctx context.Context, owner Owner, matches func(*corev1.Pod) bool) ([]*corev1.Pod, error) {
	candidates, err := podview.Owned(c.Pods.GetIndexer(), owner.GetUID())
	if err != nil {
		return nil, err
	}
	orphans, err := podview.Indexed(c.Pods.GetIndexer(), podview.Orphans, owner.GetNamespace())
	if err != nil {
		return nil, err
	}
	claims := Sort(owner, matches, append(candidates, orphans...))
	if len(claims.Adopt) > 0 {
		if err := c.mayAdopt(ctx, owner); err != nil {
			return nil, err
		}
	}
	for _, pod := range claims.Adopt {
		adopted, err := c.patch(ctx, pod, c.adoption(owner, pod))
		if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
			continue // gone, or taken by another
		}
		if err != nil {
			return nil, fmt.Errorf("adopt pod %s: %w", pod.Name, err)
		}
		claims.Owned = append(claims.Owned, adopted)
	}
	for _, pod := range claims.Release {
		_, err := c.patch(ctx, pod, c.release(owner, pod))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) {
			return nil, fmt.Errorf("release pod %s: %w", pod.Name, err)
		}
	}
	return claims.Owned, nil
}

// mayAdopt asks the API itself, since a cache may hold an owner that is gone.
func (c *Control) mayAdopt(ctx context.Context, owner Owner) error {
	fresh, err := c.Fresh(ctx, owner.GetNamespace(), owner.GetName())
	if err != nil {
		return err
	}
	if fresh.GetUID() != owner.GetUID() || fresh.GetDeletionTimestamp() != nil {
		return fmt.Errorf("%s %s/%s is gone or being deleted and adopts nothing", c.Kind.Kind, owner.GetNamespace(), owner.GetName())
	}
	return nil
}

func (c *Control) patch(ctx context.Context, pod *corev1.Pod, patch []byte) (*corev1.Pod, error) {
	return c.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
}

func (c *Control) adoption(owner Owner, pod *corev1.Pod) []byte {
	finalizers := ""
	if c.Finalizer != "" {
		finalizers = fmt.Sprintf(`,"finalizers":[%q]`, c.Finalizer)
	}
	return fmt.Appendf(nil, `{"metadata":{"ownerReferences":[{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}],"uid":%q%s}}`,
		c.Kind.GroupVersion().String(), c.Kind.Kind, owner.GetName(), owner.GetUID(), pod.UID, finalizers)
}

func (c *Control) release(owner Owner, pod *corev1.Pod) []byte {
	finalizers := ""
	if c.Finalizer != "" {
		finalizers = fmt.Sprintf(`,"$deleteFromPrimitiveList/finalizers":[%q]`, c.Finalizer)
	}
	return fmt.Appendf(nil, `{"metadata":{"ownerReferences":[{"$patch":"delete","uid":%q}],"uid":%q%s}}`, owner.GetUID(), pod.UID, finalizers)
}
