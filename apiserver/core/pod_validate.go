package core

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func nonNegative(v int64, path *field.Path) field.ErrorList {
	return validation.ValidateNonnegativeField(v, path)
}

// invalidFor turns messages of a rule into errors.
func invalidFor(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

func validateDNS1123Label(value string, path *field.Path) field.ErrorList {
	return invalidFor(path, value, utilvalidation.IsDNS1123Label(value))
}

func validateNodeName(name string, path *field.Path) field.ErrorList {
	return invalidFor(path, name, validation.NameIsDNSSubdomain(name, false))
}

func oneOf[T ~string](value T, path *field.Path, supported ...T) field.ErrorList {
	for _, s := range supported {
		if value == s {
			return nil
		}
	}
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return field.ErrorList{field.NotSupported(path, value, supported)}
}

func validatePod(p *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	errs := ValidatePodSpec(&p.Spec, spec)
	// Only the API itself adds ephemeral containers, to pods that run.
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "cannot be set on create"))
	}
	return errs
}

// ValidatePodTemplate checks the template of a workload at path.
func ValidatePodTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := unversioned.ValidateLabels(t.Labels, path.Child("labels"))
	errs = append(errs, validation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	errs = append(errs, ValidatePodSpec(&t.Spec, path.Child("spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// ValidatePodSpec checks what pods and templates share.
func ValidatePodSpec(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	volumes, errs := validateVolumes(s.Volumes, path.Child("volumes"))
	errs = append(errs, validateContainers(s, volumes, path)...)
	errs = append(errs, oneOf(s.RestartPolicy, path.Child("restartPolicy"),
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, validateDNS(s, path)...)
	errs = append(errs, unversioned.ValidateLabels(s.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, validatePodSecurity(s, path.Child("securityContext"))...)
	errs = append(errs, validateAffinity(s.Affinity, path.Child("affinity"))...)
	errs = append(errs, validateTolerations(s.Tolerations, path.Child("tolerations"))...)
	errs = append(errs, validateTopologySpread(s.TopologySpreadConstraints, path.Child("topologySpreadConstraints"))...)
	errs = append(errs, validateHostAliases(s.HostAliases, path.Child("hostAliases"))...)
	for i, g := range s.ReadinessGates {
		errs = append(errs, invalidFor(path.Child("readinessGates").Index(i).Child("conditionType"), string(g.ConditionType),
			utilvalidation.IsQualifiedName(string(g.ConditionType)))...)
	}
	for i, g := range s.SchedulingGates {
		errs = append(errs, invalidFor(path.Child("schedulingGates").Index(i).Child("name"), g.Name, utilvalidation.IsQualifiedName(g.Name))...)
	}
	if s.ServiceAccountName != "" {
		errs = append(errs, invalidFor(path.Child("serviceAccountName"), s.ServiceAccountName, validation.ValidateServiceAccountName(s.ServiceAccountName, false))...)
	}
	if s.NodeName != "" {
		errs = append(errs, validateNodeName(s.NodeName, path.Child("nodeName"))...)
	}
	if s.ActiveDeadlineSeconds != nil {
		if v := *s.ActiveDeadlineSeconds; v < 1 || v > 1<<31-1 {
			errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), v, utilvalidation.InclusiveRangeError(1, 1<<31-1)))
		}
	}
	if s.Hostname != "" {
		errs = append(errs, validateDNS1123Label(s.Hostname, path.Child("hostname"))...)
	}
	if s.Subdomain != "" {
		errs = append(errs, validateDNS1123Label(s.Subdomain, path.Child("subdomain"))...)
	}
	if s.PriorityClassName != "" {
		errs = append(errs, invalidFor(path.Child("priorityClassName"), s.PriorityClassName, validation.NameIsDNSSubdomain(s.PriorityClassName, false))...)
	}
	if s.RuntimeClassName != nil {
		errs = append(errs, invalidFor(path.Child("runtimeClassName"), *s.RuntimeClassName, validation.NameIsDNSSubdomain(*s.RuntimeClassName, false))...)
	}
	if s.PreemptionPolicy != nil {
		errs = append(errs, oneOf(*s.PreemptionPolicy, path.Child("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	if s.TerminationGracePeriodSeconds != nil && *s.TerminationGracePeriodSeconds < 0 {
		errs = append(errs, nonNegative(*s.TerminationGracePeriodSeconds, path.Child("terminationGracePeriodSeconds"))...)
	}
	return append(errs, validateHostPorts(s, path)...)
}

func validateDNS(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	errs := oneOf(s.DNSPolicy, path.Child("dnsPolicy"),
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	config := path.Child("dnsConfig")
	if s.DNSPolicy == corev1.DNSNone {
		if s.DNSConfig == nil {
			return append(errs, field.Required(config, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone)))
		}
		if len(s.DNSConfig.Nameservers) == 0 {
			return append(errs, field.Required(config.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone)))
		}
	}
	if s.DNSConfig == nil {
		return errs
	}
	const maxServers, maxSearches, maxSearchChars = 3, 32, 2048
	if len(s.DNSConfig.Nameservers) > maxServers {
		errs = append(errs, field.Invalid(config.Child("nameservers"), s.DNSConfig.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxServers)))
	}
	for i, ns := range s.DNSConfig.Nameservers {
		errs = append(errs, utilvalidation.IsValidIP(config.Child("nameservers").Index(i), ns)...)
	}
	if len(s.DNSConfig.Searches) > maxSearches {
		errs = append(errs, field.Invalid(config.Child("searches"), s.DNSConfig.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearches)))
	}
	if len(strings.Join(s.DNSConfig.Searches, " ")) > maxSearchChars {
		errs = append(errs, field.Invalid(config.Child("searches"), s.DNSConfig.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchChars)))
	}
	for i, search := range s.DNSConfig.Searches {
		if search != "." {
			search = strings.TrimSuffix(search, ".")
		}
		if search != "." {
			errs = append(errs, invalidFor(config.Child("searches").Index(i), search, utilvalidation.IsDNS1123SubdomainWithUnderscore(search))...)
		}
	}
	for i, option := range s.DNSConfig.Options {
		if option.Name == "" {
			errs = append(errs, field.Required(config.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

func validateHostAliases(aliases []corev1.HostAlias, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, alias := range aliases {
		errs = append(errs, utilvalidation.IsValidIP(path.Index(i).Child("ip"), alias.IP)...)
		for j, name := range alias.Hostnames {
			errs = append(errs, invalidFor(path.Index(i).Child("hostnames").Index(j), name, utilvalidation.IsDNS1123Subdomain(name))...)
		}
	}
	return errs
}

// validateHostPorts refuses a port of the node that two containers of the pod
// want, and one that differs from the container's in the host's network.
func validateHostPorts(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := func(containers []corev1.Container, path *field.Path, seen sets.Set[string]) {
		for i, c := range containers {
			for j, port := range c.Ports {
				if port.HostPort == 0 {
					continue
				}
				at := path.Index(i).Child("ports").Index(j).Child("hostPort")
				if s.HostNetwork && port.HostPort != port.ContainerPort {
					errs = append(errs, field.Invalid(path.Index(i).Child("ports").Index(j).Child("hostPort"), port.HostPort, "must match `containerPort` when `hostNetwork` is true"))
				}
				key := fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort)
				if seen.Has(key) {
					errs = append(errs, field.Duplicate(at, key))
				}
				seen.Insert(key)
			}
		}
	}
	check(s.Containers, path.Child("containers"), sets.New[string]())
	for i := range s.InitContainers { // they run one after the other
		check(s.InitContainers[i:i+1], path.Child("initContainers"), sets.New[string]())
	}
	return errs
}

func validateTolerations(tolerations []corev1.Toleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, t := range tolerations {
		at := path.Index(i)
		if t.Key != "" {
			errs = append(errs, unversioned.ValidateLabelName(t.Key, at.Child("key"))...)
		}
		if t.Key == "" && t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			errs = append(errs, invalidFor(at.Child("operator"), t.Value, utilvalidation.IsValidLabelValue(t.Value))...)
		case corev1.TolerationOpExists:
			if t.Value != "" {
				errs = append(errs, field.Invalid(at.Child("operator"), t, "value must be empty when `operator` is 'Exists'"))
			}
		default:
			errs = append(errs, field.NotSupported(at.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		if t.Effect != "" {
			errs = append(errs, validateTaintEffect(t.Effect, at.Child("effect"))...)
		}
	}
	return errs
}

func validateTaintEffect(effect corev1.TaintEffect, path *field.Path) field.ErrorList {
	return oneOf(effect, path, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

func validateTopologySpread(constraints []corev1.TopologySpreadConstraint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, c := range constraints {
		at := path.Index(i)
		if c.MaxSkew <= 0 {
			errs = append(errs, field.Invalid(at.Child("maxSkew"), c.MaxSkew, "must be greater than zero"))
		}
		if c.TopologyKey == "" {
			errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
		} else {
			errs = append(errs, unversioned.ValidateLabelName(c.TopologyKey, at.Child("topologyKey"))...)
		}
		errs = append(errs, oneOf(c.WhenUnsatisfiable, at.Child("whenUnsatisfiable"), corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		pair := fmt.Sprintf("{%s, %s}", c.TopologyKey, c.WhenUnsatisfiable)
		if seen.Has(pair) {
			errs = append(errs, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), pair))
		}
		seen.Insert(pair)
		if c.MinDomains != nil && *c.MinDomains <= 0 {
			errs = append(errs, field.Invalid(at.Child("minDomains"), c.MinDomains, "must be greater than zero"))
		}
		errs = append(errs, unversioned.ValidateLabelSelector(c.LabelSelector, unversioned.LabelSelectorValidationOptions{}, at.Child("labelSelector"))...)
	}
	return errs
}

// podImmutable is what upstream says about changes of a pod's spec.
const podImmutable = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	errs := ValidatePodSpec(&p.Spec, spec)
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		return append(errs, field.Forbidden(spec.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(spec.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	errs = append(errs, validateDeadlineUpdate(p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds, spec.Child("activeDeadlineSeconds"))...)
	errs = append(errs, onlyAdded(p.Spec.Tolerations, old.Spec.Tolerations, spec.Child("tolerations"))...)

	// What may change is put back; then nothing may differ.
	munged := *p.Spec.DeepCopy()
	for i := range munged.Containers {
		munged.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range munged.InitContainers {
		munged.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	munged.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	munged.Tolerations = old.Spec.Tolerations
	munged.SchedulingGates = keepGates(p.Spec.SchedulingGates, old.Spec.SchedulingGates)
	if g := old.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 && munged.TerminationGracePeriodSeconds != nil && *munged.TerminationGracePeriodSeconds == 1 {
		munged.TerminationGracePeriodSeconds = g
	}
	if !apiequality.Semantic.DeepEqual(munged, old.Spec) {
		errs = append(errs, field.Forbidden(spec, podImmutable+"\n"+diff.Diff(old.Spec, munged)))
	}
	return errs
}

// keepGates returns the old gates if the new ones are a part of them.
func keepGates(gates, old []corev1.PodSchedulingGate) []corev1.PodSchedulingGate {
	had := sets.New[string]()
	for _, g := range old {
		had.Insert(g.Name)
	}
	for _, g := range gates {
		if !had.Has(g.Name) {
			return gates
		}
	}
	return old
}

func validateDeadlineUpdate(now, old *int64, path *field.Path) field.ErrorList {
	switch {
	case now == nil && old == nil:
	case now == nil:
		return field.ErrorList{field.Invalid(path, now, "must not update from a positive integer to nil value")}
	case old != nil && *now > *old:
		return field.ErrorList{field.Invalid(path, *now, "must be less than or equal to previous value")}
	}
	return nil
}

func onlyAdded(now, old []corev1.Toleration, path *field.Path) field.ErrorList {
	for _, o := range old {
		found := false
		for _, n := range now {
			o := o
			o.TolerationSeconds = n.TolerationSeconds
			if apiequality.Semantic.DeepEqual(n, o) {
				found = true
				break
			}
		}
		if !found {
			return field.ErrorList{field.Forbidden(path, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

// validateTerminalStates refuses that a container which has ended for good runs again.
func validateTerminalStates(now, old []corev1.ContainerStatus, path *field.Path, policy corev1.RestartPolicy) field.ErrorList {
	if policy == corev1.RestartPolicyAlways {
		return nil
	}
	var errs field.ErrorList
	for i, o := range old {
		if o.State.Terminated == nil || (o.State.Terminated.ExitCode != 0 && policy == corev1.RestartPolicyOnFailure) {
			continue
		}
		for _, n := range now {
			if n.Name == o.Name && n.State.Terminated == nil {
				errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

func validatePodIPs(p *corev1.Pod, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	families := map[bool]int{}
	for i, ip := range p.Status.PodIPs {
		errs = append(errs, utilvalidation.IsValidIP(path.Child("podIPs").Index(i), ip.IP)...)
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			families[addr.Is4()]++
		}
	}
	if len(p.Status.PodIPs) > 1 && (len(p.Status.PodIPs) > 2 || families[true] != 1 || families[false] != 1) {
		errs = append(errs, field.Invalid(path.Child("podIPs"), p.Status.PodIPs, "may specify no more than one IP for each IP family"))
	}
	return errs
}
