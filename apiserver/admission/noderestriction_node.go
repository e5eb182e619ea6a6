package admission

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apiserver/pkg/admission"
)

func nodeObject(node string, a admission.Attributes) error {
	if a.GetName() != node {
		if a.GetOperation() != admission.Create || a.GetName() != "" || nameIn(a.GetObject()) != node {
			return fmt.Errorf("node %q is not allowed to modify node %q", node, a.GetName())
		}
	}
	if a.GetOperation() == admission.Delete {
		return nil // the authorizer has refused it
	}
	object, ok := a.GetObject().(*corev1.Node)
	if !ok {
		return unexpected(a.GetObject())
	}
	if a.GetOperation() == admission.Create {
		if object.Spec.ConfigSource != nil {
			return fmt.Errorf("node %q is not allowed to create pods with a non-nil configSource", node)
		}
		if labels := forbiddenLabels(object.Labels, nil); len(labels) > 0 {
			return fmt.Errorf("node %q is not allowed to set the following labels: %s", node, strings.Join(labels, ", "))
		}
		return nil
	}
	old, ok := a.GetOldObject().(*corev1.Node)
	if !ok {
		return unexpected(a.GetOldObject())
	}
	if object.Spec.ConfigSource != nil && !apiequality.Semantic.DeepEqual(object.Spec.ConfigSource, old.Spec.ConfigSource) {
		return fmt.Errorf("node %q is not allowed to update configSource to a new non-nil configSource", node)
	}
	if !apiequality.Semantic.DeepEqual(object.Spec.Taints, old.Spec.Taints) {
		return fmt.Errorf("node %q is not allowed to modify taints", node)
	}
	if labels := forbiddenLabels(object.Labels, old.Labels); len(labels) > 0 {
		return fmt.Errorf("is not allowed to modify labels: %s", strings.Join(labels, ", "))
	}
	if !apiequality.Semantic.DeepEqual(object.OwnerReferences, old.OwnerReferences) {
		return fmt.Errorf("node %q is not allowed to modify ownerReferences", node)
	}
	return nil
}

func nameIn(obj any) string {
	m, err := meta.Accessor(obj)
	if err != nil {
		return ""
	}
	return m.GetName()
}

// kubeletLabels are the labels below kubernetes.io that a node gives itself.
var kubeletLabels = []string{
	corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion,
	corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
	corev1.LabelInstanceType, corev1.LabelInstanceTypeStable, corev1.LabelOSStable, corev1.LabelArchStable,
	"beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

// forbiddenLabels are those of the labels that differ which would let a node draw
// pods to itself that others mean for elsewhere.
func forbiddenLabels(now, old map[string]string) []string {
	var out []string
	for key := range changed(now, old) {
		namespace, _, ok := strings.Cut(key, "/")
		if !ok {
			continue
		}
		below := func(domain string) bool { return namespace == domain || strings.HasSuffix(namespace, "."+domain) }
		kubelets := slices.Contains(kubeletLabels, key) || below("kubelet.kubernetes.io") || below("node.kubernetes.io")
		if below(corev1.LabelNamespaceNodeRestriction) || (below("kubernetes.io") || below("k8s.io")) && !kubelets {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

func changed(a, b map[string]string) map[string]bool {
	keys := map[string]bool{}
	for _, m := range []map[string]string{a, b} {
		for k := range m {
			va, ina := a[k]
			vb, inb := b[k]
			if va != vb || ina != inb {
				keys[k] = true
			}
		}
	}
	return keys
}
