package history

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
)

// Keeper reads and writes the revisions of one kind of owner.
type Keeper struct {
	Kind      schema.GroupVersionKind
	Client    kubernetes.Interface
	Revisions appslisters.ControllerRevisionLister
	Fresh     func(ctx context.Context, namespace, name string) (metav1.Object, error)
}

// Owned returns the revisions of owner, after adopting those that match its selector
// and have no owner (a set that was deleted with --cascade=orphan and made anew).
func (k *Keeper) Owned(ctx context.Context, owner metav1.Object, selector labels.Selector) ([]*appsv1.ControllerRevision, error) {
	all, err := k.Revisions.ControllerRevisions(owner.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var owned []*appsv1.ControllerRevision
	for _, r := range all {
		holder := metav1.GetControllerOfNoCopy(r)
		switch {
		case holder != nil && holder.UID == owner.GetUID():
			owned = append(owned, r)
		case holder == nil && r.DeletionTimestamp == nil && owner.GetDeletionTimestamp() == nil && selector.Matches(labels.Set(r.Labels)):
			adopted, err := k.adopt(ctx, owner, r)
			if err != nil {
				return nil, err
			}
			owned = append(owned, adopted)
		}
	}
	return owned, nil
}

func (k *Keeper) adopt(ctx context.Context, owner metav1.Object, r *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	fresh, err := k.Fresh(ctx, owner.GetNamespace(), owner.GetName())
	if err != nil {
		return nil, err
	}
	if fresh.GetUID() != owner.GetUID() || fresh.GetDeletionTimestamp() != nil {
		return nil, fmt.Errorf("%s %s/%s is gone or being deleted and adopts nothing", k.Kind.Kind, owner.GetNamespace(), owner.GetName())
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"ownerReferences":[{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}]}}`,
		r.UID, k.Kind.GroupVersion().String(), k.Kind.Kind, owner.GetName(), owner.GetUID())
	return k.Client.AppsV1().ControllerRevisions(r.Namespace).Patch(ctx, r.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
}

// ErrCollision says that another template has the name the revision should have;
// the owner's collision count has to be raised.
type ErrCollision struct{ Name string }

func (e ErrCollision) Error() string {
	return fmt.Sprintf("revision name %s is taken by another template", e.Name)
}

// Write carries out a choice.
func (k *Keeper) Write(ctx context.Context, owner metav1.Object, c Choice) error {
	revisions := k.Client.AppsV1().ControllerRevisions(owner.GetNamespace())
	switch {
	case c.Raise:
		_, err := revisions.Update(ctx, c.Revision, metav1.UpdateOptions{})
		return err
	case !c.Create:
		return nil
	}
	_, err := revisions.Create(ctx, c.Revision, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	there, err := revisions.Get(ctx, c.Revision.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if holder := metav1.GetControllerOfNoCopy(there); holder != nil && holder.UID == owner.GetUID() && same(there.Data.Raw, c.Revision.Data.Raw) {
		return nil // from an earlier pass that the cache does not show
	}
	return ErrCollision{c.Revision.Name}
}

// Drop deletes revisions that are not needed any more.
func (k *Keeper) Drop(ctx context.Context, surplus []*appsv1.ControllerRevision) error {
	for _, r := range surplus {
		err := k.Client.AppsV1().ControllerRevisions(r.Namespace).Delete(ctx, r.Name, *metav1.NewPreconditionDeleteOptions(string(r.UID)))
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
