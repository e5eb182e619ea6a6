package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"

	"kontiki/apiserver/authz"
	"kontiki/apiserver/podrefs"
)

// nodeRestriction keeps nodes to their own: upstream's plugin NodeRestriction, the
// other half of the Node authorizer, which does not see what requests contain.
type nodeRestriction struct {
	*admission.Handler
	client     kubernetes.Interface
	authorizer authorizer.Authorizer
}

func newNodeRestriction(client kubernetes.Interface, a authorizer.Authorizer) *nodeRestriction {
	return &nodeRestriction{admission.NewHandler(admission.Create, admission.Update, admission.Delete), client, a}
}

// Admit implements admission.MutationInterface. It changes nothing; as upstream's
// it judges what came, before other plugins have added to it.
func (r *nodeRestriction) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, isNode := authz.NodeOf(a.GetUserInfo())
	if !isNode {
		return nil
	}
	err := r.judge(ctx, node, a)
	var status apierrors.APIStatus
	var again passing
	if err == nil || errors.As(err, &status) || errors.As(err, &again) {
		return err
	}
	return admission.NewForbidden(a, err)
}

func (r *nodeRestriction) judge(ctx context.Context, node string, a admission.Attributes) error {
	if node == "" {
		return fmt.Errorf("could not determine node from user %q", a.GetUserInfo().GetName())
	}
	switch a.GetResource().GroupResource() {
	case corev1.Resource("pods"):
		switch a.GetSubresource() {
		case "":
			return r.pod(ctx, node, a)
		case "status":
			return podStatus(node, a)
		case "eviction":
			return r.eviction(ctx, node, a)
		}
		return fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.GetSubresource())
	case corev1.Resource("nodes"):
		return nodeObject(node, a)
	case corev1.Resource("persistentvolumeclaims"):
		if a.GetSubresource() != "status" {
			return errors.New("may only update PVC status")
		}
		return claimStatus(node, a)
	case corev1.Resource("persistentvolumes"):
		return localVolume(node, a)
	case corev1.Resource("serviceaccounts"):
		return r.token(ctx, node, a)
	case coordinationv1.Resource("leases"):
		if a.GetNamespace() != corev1.NamespaceNodeLease {
			return fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
		}
		return named(node, a, "can only access node lease with the same name as the requesting node")
	case storagev1.Resource("csinodes"):
		return named(node, a, "can only access CSINode with the same name as the requesting node")
	case resourcev1.Resource("resourceslices"):
		return resourceSlice(node, a)
	case certificatesv1.Resource("podcertificaterequests"):
		return r.podCertificate(ctx, node, a)
	case certificatesv1.Resource("certificatesigningrequests"):
		return signingRequest(node, a)
	}
	return nil
}

func unexpected(obj any) error { return fmt.Errorf("unexpected type %T", obj) }

// named wants an object to be called as the node is. On create the name is in
// the object alone.
func named(node string, a admission.Attributes, refusal string) error {
	name := a.GetName()
	if a.GetOperation() == admission.Create {
		m, err := meta.Accessor(a.GetObject())
		if err != nil {
			return errors.New("unable to access the object name")
		}
		name = m.GetName()
	}
	if name != node {
		return errors.New(refusal)
	}
	return nil
}

func (r *nodeRestriction) pod(ctx context.Context, node string, a admission.Attributes) error {
	switch a.GetOperation() {
	case admission.Create:
		pod, ok := a.GetObject().(*corev1.Pod)
		if !ok {
			return unexpected(a.GetObject())
		}
		return r.mirror(ctx, node, pod)
	case admission.Delete:
		pod, err := r.stored(ctx, a.GetNamespace(), a.GetName())
		if err == nil && pod.Spec.NodeName != node {
			err = fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node)
		}
		return err
	}
	return fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", a.GetOperation(), node)
}

// mirror: a node creates only images of pods that it runs by itself.
func (r *nodeRestriction) mirror(ctx context.Context, node string, pod *corev1.Pod) error {
	if !mirrored(pod) {
		return fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	if pod.Spec.NodeName != node {
		return fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", node)
	}
	switch {
	case len(pod.OwnerReferences) > 1:
		return fmt.Errorf("node %q can only create pods with a single owner reference set to itself", node)
	case len(pod.OwnerReferences) == 0:
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", node)
	}
	owner := pod.OwnerReferences[0]
	switch {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node:
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", node)
	case owner.Controller == nil || !*owner.Controller:
		return fmt.Errorf("node %q can only create pods with a controller owner reference set to itself", node)
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	object, err := r.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if owner.UID != object.UID {
		return fmt.Errorf("node %s UID mismatch: expected %s got %s", node, owner.UID, object.UID)
	}
	return refersToNothing(node, pod)
}

// refersToNothing: else a node could read what it names in such a pod.
func refersToNothing(node string, pod *corev1.Pod) error {
	refuse := func(what string) error {
		return fmt.Errorf("node %q can not create pods that reference %s", node, what)
	}
	if pod.Spec.ServiceAccountName != "" {
		return refuse("a service account")
	}
	for range podrefs.Secrets(pod) {
		return refuse("secrets")
	}
	for range podrefs.ConfigMaps(pod) {
		return refuse("configmaps")
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			if source.ClusterTrustBundle != nil {
				return refuse("clustertrustbundles")
			}
		}
	}
	for range podrefs.Claims(pod) {
		return refuse("persistentvolumeclaims")
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return refuse("resourceclaims")
	}
	return nil
}

func podStatus(node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Update {
		return fmt.Errorf("unexpected operation %q", a.GetOperation())
	}
	old, ok := a.GetOldObject().(*corev1.Pod)
	if !ok {
		return unexpected(a.GetOldObject())
	}
	if old.Spec.NodeName != node {
		return fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node)
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return unexpected(a.GetObject())
	}
	if !maps.Equal(old.Labels, pod.Labels) {
		return fmt.Errorf("node %q cannot update labels through pod status", node)
	}
	if !apiequality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses) {
		return fmt.Errorf("node %q cannot update resource claim statuses", node)
	}
	if !apiequality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus) {
		return fmt.Errorf("node %q cannot update extended resource claim status", node)
	}
	return nil
}

func (r *nodeRestriction) eviction(ctx context.Context, node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create {
		return fmt.Errorf("unexpected operation %s", a.GetOperation())
	}
	eviction, ok := a.GetObject().(*policyv1.Eviction)
	if !ok {
		return unexpected(a.GetObject())
	}
	name := a.GetName()
	if name == "" {
		name = eviction.Name
	}
	if name == "" {
		return errors.New("could not determine pod from request data")
	}
	pod, err := r.stored(ctx, a.GetNamespace(), name)
	if err == nil && pod.Spec.NodeName != node {
		err = fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", node)
	}
	return err
}

func claimStatus(node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Update {
		return fmt.Errorf("unexpected operation %q", a.GetOperation())
	}
	old, ok := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok {
		return unexpected(a.GetOldObject())
	}
	pvc, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok {
		return unexpected(a.GetObject())
	}
	before, after := notTheNodes(old), notTheNodes(pvc)
	if !apiequality.Semantic.DeepEqual(before, after) {
		return fmt.Errorf("node %q is not allowed to update fields other than status.capacity and status.conditions", node)
	}
	return nil
}

// localVolume: of a volume that lies on it a node says that its directory was made
// or is gone, and nothing else.
func localVolume(node string, a admission.Attributes) error {
	pv, ok := a.GetObject().(*corev1.PersistentVolume)
	old, okOld := a.GetOldObject().(*corev1.PersistentVolume)
	if a.GetOperation() != admission.Update || a.GetSubresource() != "" || !ok || !okOld {
		return fmt.Errorf("unexpected operation %q", a.GetOperation())
	}
	if !authz.LocalVolumeOf(old, node) || !authz.LocalVolumeOf(pv, node) {
		return fmt.Errorf("node %q can only update persistent volumes that lie on itself", node)
	}
	if !apiequality.Semantic.DeepEqual(old.Spec, pv.Spec) || !maps.Equal(old.Labels, pv.Labels) || !apiequality.Semantic.DeepEqual(old.OwnerReferences, pv.OwnerReferences) {
		return fmt.Errorf("node %q is not allowed to update fields other than annotations and finalizers", node)
	}
	return nil
}

// notTheNodes is a claim without what its node may change.
func notTheNodes(pvc *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	out := pvc.DeepCopy()
	out.ResourceVersion, out.ManagedFields = "", nil
	out.Status.Capacity, out.Status.Conditions = nil, nil
	out.Status.AllocatedResourceStatuses, out.Status.AllocatedResources = nil, nil
	return out
}

func resourceSlice(node string, a admission.Attributes) error {
	switch a.GetOperation() {
	case admission.Create:
		slice, ok := a.GetObject().(*resourcev1.ResourceSlice)
		if !ok {
			return unexpected(a.GetObject())
		}
		if slice.Spec.NodeName == nil || *slice.Spec.NodeName != node {
			return errors.New("can only create ResourceSlice with the same NodeName as the requesting node")
		}
	case admission.Delete:
		slice, ok := a.GetOldObject().(*resourcev1.ResourceSlice)
		if !ok {
			return unexpected(a.GetOldObject())
		}
		if slice.Spec.NodeName == nil || *slice.Spec.NodeName != node {
			return errors.New("can only delete ResourceSlice with the same NodeName as the requesting node")
		}
	}
	return nil
}

var replica = metav1.GetOptions{ResourceVersion: "0"}

// stored is a pod as it was on this node's replica, or if that does not know it
// yet, as it is.
func (r *nodeRestriction) stored(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod, err := r.client.CoreV1().Pods(namespace).Get(ctx, name, replica)
	if apierrors.IsNotFound(err) {
		return r.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	return pod, err
}
