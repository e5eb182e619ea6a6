package disruption

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/utils/ptr"
)

// owners answers how many pods a controller wants.
type owners struct {
	deployments  appslisters.DeploymentLister
	replicaSets  appslisters.ReplicaSetLister
	statefulSets appslisters.StatefulSetLister
	replications corelisters.ReplicationControllerLister
}

// expected adds up what the controllers of the pods want, each once; alone is how many
// pods name none. A pod whose controller is not there fails all: its share of the whole
// is not known, and nothing may be evicted on a guess.
func (c *Controller) expected(ctx context.Context, pods []*corev1.Pod) (sum, alone int, err error) {
	asked := map[types.UID]bool{}
	counted := map[types.UID]bool{}
	for _, pod := range pods {
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner == nil {
			alone++
			continue
		}
		if asked[owner.UID] {
			continue
		}
		asked[owner.UID] = true
		uid, replicas, err := c.owners.replicas(pod.Namespace, owner)
		if errors.Is(err, errNotKnown) || apierrors.IsNotFound(err) || errors.Is(err, errGone) {
			uid, replicas, err = c.scaleOf(ctx, pod.Namespace, owner) // a cache may be behind; the API is not
		}
		if errors.Is(err, errGone) {
			return 0, 0, noController{pod.Name}
		}
		if err != nil {
			return 0, 0, err
		}
		if !counted[uid] {
			counted[uid] = true
			sum += int(ptr.Deref(replicas, 1))
		}
	}
	return sum, alone, nil
}

// scaleOf asks the API for the size of an owner of any kind.
func (c *Controller) scaleOf(ctx context.Context, namespace string, owner *metav1.OwnerReference) (types.UID, *int32, error) {
	size, _, err := c.targets.Get(ctx, namespace, owner.APIVersion, owner.Kind, owner.Name)
	switch {
	case apierrors.IsNotFound(err):
		return "", nil, c.whyNoScale(ctx, owner)
	case err != nil:
		return "", nil, err
	case size.UID != owner.UID:
		return "", nil, errGone
	}
	return size.UID, &size.Spec.Replicas, nil
}

// whyNoScale tells an owner that is gone from one of a kind without sizes.
func (c *Controller) whyNoScale(ctx context.Context, owner *metav1.OwnerReference) error {
	resources, err := c.targets.Resources(owner.APIVersion, owner.Kind)
	if err != nil {
		return err
	}
	for _, r := range resources {
		served, err := c.client.Discovery().ServerResourcesForGroupVersionWithContext(ctx, r.GroupVersion().String())
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if slices.ContainsFunc(served.APIResources, func(s metav1.APIResource) bool { return s.Name == r.Resource+"/scale" }) {
			return errGone
		}
	}
	if len(resources) == 0 {
		return fmt.Errorf("%s does not implement the scale subresource", owner.Kind)
	}
	return fmt.Errorf("%s does not implement the scale subresource", resources[0].GroupResource())
}

// noController is errGone in upstream's words.
type noController struct{ pod string }

func (e noController) Error() string   { return fmt.Sprintf("found no controllers for pod %q", e.pod) }
func (noController) Is(err error) bool { return err == errGone }

// errGone is about owners that are not there any more, or are others of that name.
var errGone = errors.New("the owner is gone")

// errNotKnown is about owners of kinds that no cache holds.
var errNotKnown = errors.New("the kind is not built in")

func (o owners) replicas(namespace string, owner *metav1.OwnerReference) (types.UID, *int32, error) {
	switch owner.Kind + "." + groupOf(owner) {
	case "ReplicaSet.apps":
		rs, err := o.replicaSets.ReplicaSets(namespace).Get(owner.Name)
		if err != nil {
			return "", nil, err
		}
		if rs.UID != owner.UID {
			return "", nil, errGone
		}
		if parent := metav1.GetControllerOfNoCopy(rs); parent != nil && parent.Kind == "Deployment" && groupOf(parent) == "apps" {
			d, err := o.deployments.Deployments(namespace).Get(parent.Name)
			if err != nil {
				return "", nil, err
			}
			if d.UID != parent.UID {
				return "", nil, errGone
			}
			return d.UID, d.Spec.Replicas, nil
		}
		return rs.UID, rs.Spec.Replicas, nil
	case "StatefulSet.apps":
		s, err := o.statefulSets.StatefulSets(namespace).Get(owner.Name)
		if err != nil {
			return "", nil, err
		}
		if s.UID != owner.UID {
			return "", nil, errGone
		}
		return s.UID, s.Spec.Replicas, nil
	case "ReplicationController.":
		rc, err := o.replications.ReplicationControllers(namespace).Get(owner.Name)
		if err != nil {
			return "", nil, err
		}
		if rc.UID != owner.UID {
			return "", nil, errGone
		}
		return rc.UID, rc.Spec.Replicas, nil
	}
	return "", nil, errNotKnown
}

func groupOf(owner *metav1.OwnerReference) string {
	gv, err := schema.ParseGroupVersion(owner.APIVersion)
	if err != nil {
		return owner.APIVersion // names no kind that is known
	}
	return gv.Group
}
