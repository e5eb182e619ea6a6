package admission

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// topologyLabels gives a pod the zone and region of the node that it is bound to,
// for its containers to read: upstream's plugin PodTopologyLabels.
//
// Every binding asks for a node, so nodes are kept at hand. One that the informer does
// not hold (yet) is looked for in the replica, by a request of its own.
type topologyLabels struct {
	*admission.Handler
	client kubernetes.Interface
	nodes  cache.SharedIndexInformer
}

// nodeTopology is the type by which the shared informers know this one: what it holds
// must not be taken for whole nodes, of which there may be thousands.
type nodeTopology struct{ corev1.Node }

func newTopologyLabels(client kubernetes.Interface, shared informers.SharedInformerFactory) (*topologyLabels, error) {
	nodes := shared.InformerFor(&nodeTopology{}, func(client kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
		return coreinformers.NewNodeInformer(client, resync, cache.Indexers{})
	})
	if err := nodes.SetTransform(onlyTopology); err != nil {
		return nil, fmt.Errorf("follow the topology of nodes: %w", err)
	}
	return &topologyLabels{admission.NewHandler(admission.Create), client, nodes}, nil
}

// topology are the labels that pods are given.
var topology = []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion}

// onlyTopology makes a node small.
func onlyTopology(obj any) (any, error) {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil // a word about one that is gone
	}
	small := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion}}
	for _, key := range topology {
		if value, ok := node.Labels[key]; ok {
			metav1.SetMetaDataLabel(&small.ObjectMeta, key, value)
		}
	}
	return small, nil
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
	labels, err := t.labelsOf(ctx, node)
	if err != nil {
		return err
	}
	for _, key := range topology {
		value, ok := labels[key]
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

func (t *topologyLabels) labelsOf(ctx context.Context, node string) (map[string]string, error) {
	if known, ok, err := t.nodes.GetStore().GetByKey(node); err == nil && ok {
		return known.(*corev1.Node).Labels, nil
	}
	object, err := t.client.CoreV1().Nodes().Get(ctx, node, replica)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return object.Labels, nil
}
