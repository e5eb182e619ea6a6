package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	nodelisters "k8s.io/client-go/listers/node/v1"
)

// runtimeClass gives pods what their RuntimeClass costs and where it can run:
// upstream's plugin RuntimeClass.
type runtimeClass struct {
	*admission.Handler
	client  kubernetes.Interface
	classes nodelisters.RuntimeClassLister
}

func newRuntimeClass(client kubernetes.Interface, shared informers.SharedInformerFactory) *runtimeClass {
	classes := shared.Node().V1().RuntimeClasses()
	r := &runtimeClass{admission.NewHandler(admission.Create), client, classes.Lister()}
	r.SetReadyFunc(classes.Informer().HasSynced)
	return r
}

var errOverhead = errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")

// Admit implements admission.MutationInterface.
func (r *runtimeClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, class, err := r.of(ctx, a)
	if class == nil || err != nil {
		return err
	}
	if class.Overhead != nil {
		if pod.Spec.Overhead != nil && !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return admission.NewForbidden(a, errOverhead)
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling != nil {
		if err := schedule(pod, class.Scheduling); err != nil {
			return admission.NewForbidden(a, err)
		}
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (r *runtimeClass) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, class, err := r.of(ctx, a)
	if pod == nil || err != nil {
		return err
	}
	switch {
	case class != nil && class.Overhead != nil:
		if !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return admission.NewForbidden(a, errOverhead)
		}
	case pod.Spec.Overhead != nil:
		return admission.NewForbidden(a, errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
	}
	return nil
}

// of is the pod of a request and its class, if it has one.
func (r *runtimeClass) of(ctx context.Context, a admission.Attributes) (*corev1.Pod, *nodev1.RuntimeClass, error) {
	pod, err := newPod(a)
	if pod == nil || err != nil || pod.Spec.RuntimeClassName == nil {
		return pod, nil, err
	}
	if !r.WaitForReady() {
		return nil, nil, admission.NewForbidden(a, errNotReady)
	}
	name := *pod.Spec.RuntimeClassName
	class, err := r.classes.Get(name)
	if apierrors.IsNotFound(err) {
		class, err = r.client.NodeV1().RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil, nil, admission.NewForbidden(a, fmt.Errorf("pod rejected: RuntimeClass %q not found", name))
	}
	return pod, class, err
}

func schedule(pod *corev1.Pod, s *nodev1.Scheduling) error {
	selector := maps.Clone(pod.Spec.NodeSelector)
	for _, key := range slices.Sorted(maps.Keys(s.NodeSelector)) {
		if value, ok := selector[key]; ok && value != s.NodeSelector[key] {
			return fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, s.NodeSelector[key], key, value)
		}
		if selector == nil {
			selector = map[string]string{}
		}
		selector[key] = s.NodeSelector[key]
	}
	pod.Spec.NodeSelector = selector
	for _, t := range s.Tolerations {
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(have corev1.Toleration) bool { return apiequality.Semantic.DeepEqual(have, t) }) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, *t.DeepCopy())
		}
	}
	return nil
}
