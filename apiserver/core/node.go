package core

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func nodes(cfg Config) kind.Definition {
	return &kind.Kind[*corev1.Node]{
		Resource: "nodes", Singular: "node", ShortNames: []string{"no"},
		Cluster:            true,
		New:                func() *corev1.Node { return &corev1.Node{} },
		NewList:            func() runtime.Object { return &corev1.NodeList{} },
		KeepStatusOnCreate: true,
		Default:            defaultNode,
		Validate:           validateNode,
		ValidateUpdate:     validateNodeUpdate,
		Warn:               warnNode,
		Status:             &kind.Status[*corev1.Node]{Validate: validateNodeUpdate},
		Extend: func(in kind.Storages) (kind.Storages, error) {
			in["nodes/proxy"] = nodeProxy(in["nodes"].(*kind.REST), cfg.Agents)
			return in, nil
		},
		Fields: func(n *corev1.Node) fields.Set {
			unschedulable := "false"
			if n.Spec.Unschedulable {
				unschedulable = "true"
			}
			return fields.Set{"spec.unschedulable": unschedulable}
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Status", "The status of the node"),
			kind.Column("Roles", "The roles of the node"),
			kind.AgeColumn,
			kind.Column("Version", corev1.NodeSystemInfo{}.SwaggerDoc()["kubeletVersion"]),
			kind.Wide("Internal-IP", corev1.NodeStatus{}.SwaggerDoc()["addresses"]),
			kind.Wide("External-IP", corev1.NodeStatus{}.SwaggerDoc()["addresses"]),
			kind.Wide("OS-Image", corev1.NodeSystemInfo{}.SwaggerDoc()["osImage"]),
			kind.Wide("Kernel-Version", corev1.NodeSystemInfo{}.SwaggerDoc()["kernelVersion"]),
			kind.Wide("Container-Runtime", corev1.NodeSystemInfo{}.SwaggerDoc()["containerRuntimeVersion"]),
		},
		Cells: nodeCells,
	}
}

// defaultNode keeps podCIDR the first of podCIDRs, and what can be allocated
// what there is, unless the node says otherwise.
func defaultNode(n *corev1.Node) {
	if n.Spec.PodCIDR != "" && len(n.Spec.PodCIDRs) == 0 {
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	}
	if len(n.Spec.PodCIDRs) > 0 {
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
	if len(n.Status.Allocatable) == 0 && len(n.Status.Capacity) > 0 {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	roundResources(n.Status.Capacity)
	roundResources(n.Status.Allocatable)
}

func validateNode(n *corev1.Node) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateTaints(n.Spec.Taints, field.NewPath("metadata", "taints"))
	errs = append(errs, validateAddresses(n)...)
	return append(errs, validatePodCIDRs(n.Spec.PodCIDRs, spec.Child("podCIDRs"))...)
}

func validateTaints(taints []corev1.Taint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	unique := map[corev1.TaintEffect]sets.Set[string]{}
	for i, t := range taints {
		at := path.Index(i)
		errs = append(errs, unversioned.ValidateLabelName(t.Key, at.Child("key"))...)
		errs = append(errs, invalidFor(at.Child("value"), t.Value, utilvalidation.IsValidLabelValue(t.Value))...)
		errs = append(errs, validateTaintEffect(t.Effect, at.Child("effect"))...)
		if unique[t.Effect].Has(t.Key) {
			duplicate := field.Duplicate(at, t)
			duplicate.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, duplicate)
			continue
		}
		if unique[t.Effect] == nil {
			unique[t.Effect] = sets.New[string]()
		}
		unique[t.Effect].Insert(t.Key)
	}
	return errs
}

func validateAddresses(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.NodeAddress]bool{}
	for i, a := range n.Status.Addresses {
		if seen[a] {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), a))
		}
		seen[a] = true
	}
	return errs
}

func validatePodCIDRs(cidrs []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	families := map[bool]int{}
	for i, cidr := range cidrs {
		errs = append(errs, utilvalidation.IsValidCIDRForLegacyField(path.Index(i), cidr, true, nil)...)
		if p, err := netip.ParsePrefix(cidr); err == nil {
			families[p.Addr().Is4()]++
		}
	}
	if len(cidrs) > 1 {
		if families[true] > 1 || families[false] > 1 {
			errs = append(errs, field.Invalid(path, cidrs, "may specify no more than one CIDR for each IP family"))
		}
	}
	return errs
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := validateAddresses(n)
	spec := field.NewPath("spec")
	old = old.DeepCopy()
	if len(old.Spec.PodCIDRs) > 0 {
		if !slices.Equal(old.Spec.PodCIDRs, n.Spec.PodCIDRs) {
			errs = append(errs, field.Forbidden(spec.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
		}
	} else {
		errs = append(errs, validatePodCIDRs(n.Spec.PodCIDRs, spec.Child("podCIDRs"))...)
	}
	if old.Spec.ProviderID != "" && old.Spec.ProviderID != n.Spec.ProviderID {
		errs = append(errs, field.Forbidden(spec.Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	// What may change is put back; then nothing may differ.
	old.Spec.PodCIDR, old.Spec.PodCIDRs = n.Spec.PodCIDR, n.Spec.PodCIDRs
	old.Spec.ProviderID = n.Spec.ProviderID
	old.Spec.Unschedulable = n.Spec.Unschedulable
	old.Spec.Taints = n.Spec.Taints
	if !apiequality.Semantic.DeepEqual(old.Spec, n.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath(""), "node updates may only change labels, taints, or capacity (or configSource, if the DynamicKubeletConfig feature gate is enabled)"))
	}
	return append(errs, validateTaints(n.Spec.Taints, field.NewPath("metadata", "taints"))...)
}

func nodeCells(n *corev1.Node) []any {
	var status []string
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		if c.Status == corev1.ConditionTrue {
			status = append(status, "Ready")
		} else {
			status = append(status, "NotReady")
		}
	}
	if len(status) == 0 {
		status = append(status, "Unknown")
	}
	if n.Spec.Unschedulable {
		status = append(status, "SchedulingDisabled")
	}
	roles := strings.Join(nodeRoles(n), ",")
	info := n.Status.NodeInfo
	return []any{
		n.Name, strings.Join(status, ","), orNone(roles), kind.Age(n.CreationTimestamp), info.KubeletVersion,
		orNone(address(n, corev1.NodeInternalIP)), orNone(address(n, corev1.NodeExternalIP)),
		orUnknown(info.OSImage), orUnknown(info.KernelVersion), orUnknown(info.ContainerRuntimeVersion),
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}

func nodeRoles(n *corev1.Node) []string {
	roles := sets.New[string]()
	for k, v := range n.Labels {
		switch {
		case strings.HasPrefix(k, "node-role.kubernetes.io/"):
			if role := strings.TrimPrefix(k, "node-role.kubernetes.io/"); role != "" {
				roles.Insert(role)
			}
		case k == "kubernetes.io/role" && v != "":
			roles.Insert(v)
		}
	}
	return sets.List(roles)
}

func address(n *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return ""
}
