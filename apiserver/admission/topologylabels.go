package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/kubernetes"
)

// topologyLabels gives a pod the zone and region of the node that it is bound to,
// for its containers to read: upstream's plugin PodTopologyLabels.
type topologyLabels struct {
	*admission.Handler
	client kubernetes.Interface
}

func newTopologyLabels(client kubernetes.Interface) *topologyLabels {
	return &topologyLabels{admission.NewHandler(admission.Create), client}
}

// Admit implements admission.MutationInterface.
func (t *topologyLabels) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("pods") {
		return nil
	}
	switch a.GetSubresource() {
	case "":
		pod, ok := a.GetObject().(*corev1.Pod)
		if !ok {
			return fmt.Errorf("expected Pod but got %T", a.GetObject())
		}
		return t.add(ctx, pod.Spec.NodeName, &pod.Labels)
	case "binding":
		binding, ok := a.GetObject().(*corev1.Binding)
		if !ok {
			return fmt.Errorf("expected Binding but got %s", a.GetKind().Kind)
		}
		if binding.Target.Kind != "Node" {
			return nil
		}
		return t.add(ctx, binding.Target.Name, &binding.Labels)
	}
	return nil
}

// add never overwrites what is there.
func (t *topologyLabels) add(ctx context.Context, node string, to *map[string]string) error {
	if node == "" {
		return nil
	}
	object, err := t.client.CoreV1().Nodes().Get(ctx, node, replica)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		value, ok := object.Labels[key]
		if _, have := (*to)[key]; !ok || have {
			continue
		}
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[key] = value
	}
	return nil
}
