package agent

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	sysctls "k8s.io/component-helpers/node/util/sysctl"
	resourcehelper "k8s.io/component-helpers/resource"

	"kontiki/runtime/pod"
)

// refusal is why a pod cannot be on this node, in upstream's words.
type refusal struct{ reason, message string }

// admit refuses a pod that cannot be on this node beside those that are: whoever
// named the node did not look. Such a pod fails, as on a kubelet.
func (a *Agent) admit(rec *pod.Record) {
	var others []*corev1.Pod
	a.eachPod(func(r *running) {
		if p, phase := r.poster.current(); !ended(phase) {
			others = append(others, p)
		}
	})
	room := allocatable(a.host)
	room[corev1.ResourcePods] = *podsQuantity(&a.cfg)
	no := refuse(rec.Pod, others, room, a.cfg.AllowedUnsafeSysctls)
	if no == nil {
		return
	}
	rec.Stopping = &pod.Stopping{At: time.Now(), Grace: time.Second, Phase: corev1.PodFailed, Reason: no.reason, Message: "Pod was rejected: " + no.message}
	(api{a}).Event(rec.Pod, "", corev1.EventTypeWarning, no.reason, no.message)
}

// refuse decides about a new pod, in upstream's order.
func refuse(p *corev1.Pod, others []*corev1.Pod, room corev1.ResourceList, unsafe []string) *refusal {
	if os := p.Spec.OS; os != nil && os.Name != corev1.Linux {
		return &refusal{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if no := forbiddenSysctl(p, unsafe); no != nil {
		return no
	}
	if err := pod.UserNamespaces(p); err != nil {
		return &refusal{"UserNamespacesNotSupported", err.Error()}
	}
	if no := missingRoom(p, others, room); no != nil {
		return no
	}
	for _, other := range others {
		if port := sharedHostPort(p, other); port != 0 {
			return &refusal{"NodePorts", fmt.Sprintf("host port %d is taken by pod %s/%s", port, other.Namespace, other.Name)}
		}
	}
	if wantsAppArmor(p) {
		return &refusal{"AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"}
	}
	return nil
}

// wantsAppArmor: the pod or a container of it is to be confined by a profile, which this node cannot do.
func wantsAppArmor(p *corev1.Pod) bool {
	confines := func(a *corev1.AppArmorProfile) bool {
		return a != nil && a.Type != corev1.AppArmorProfileTypeUnconfined
	}
	if sc := p.Spec.SecurityContext; sc != nil && confines(sc.AppArmorProfile) {
		return true
	}
	for key, value := range p.Annotations {
		if strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) && value != corev1.DeprecatedAppArmorBetaProfileNameUnconfined {
			return true
		}
	}
	return slices.ContainsFunc(slices.Concat(p.Spec.InitContainers, p.Spec.Containers), func(c corev1.Container) bool {
		return c.SecurityContext != nil && confines(c.SecurityContext.AppArmorProfile)
	})
}

// safeSysctls are upstream's: a pod has them for itself, and no other feels them.
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// forbiddenSysctl finds one that is neither safe nor allowed on this node.
func forbiddenSysctl(p *corev1.Pod, unsafe []string) *refusal {
	if p.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range p.Spec.SecurityContext.Sysctls {
		name := pod.SysctlName(s.Name)
		if !slices.Contains(safeSysctls, name) && !slices.ContainsFunc(unsafe, func(pattern string) bool { return sysctlFits(pattern, name) }) {
			return &refusal{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", name)}
		}
		if ns, _, _ := sysctls.GetNamespace(name); ns == sysctls.NetNamespace && p.Spec.HostNetwork || ns == sysctls.IPCNamespace && p.Spec.HostIPC {
			return &refusal{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowed with host %s enabled", name, ns)}
		}
	}
	return nil
}

// sysctlFits: a pattern is a name, or the beginning of names with a star after it.
func sysctlFits(pattern, name string) bool {
	pattern = pod.SysctlName(pattern)
	if n := len(pattern) - 1; n >= 0 && pattern[n] == '*' {
		return len(name) >= n && name[:n] == pattern[:n]
	}
	return pattern == name
}

// missingRoom finds a resource of which others have left less than the pod asks for.
func missingRoom(p *corev1.Pod, others []*corev1.Pod, room corev1.ResourceList) *refusal {
	if most := room.Pods().Value(); int64(len(others))+1 > most {
		return outOf(corev1.ResourcePods, 1, int64(len(others)), most)
	}
	asked := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		amount := func(list corev1.ResourceList) int64 {
			q := list[name]
			if name == corev1.ResourceCPU {
				return q.MilliValue()
			}
			return q.Value()
		}
		want := amount(asked)
		if want == 0 {
			continue
		}
		used := int64(0)
		for _, other := range others {
			used += amount(resourcehelper.PodRequests(other, resourcehelper.PodResourcesOptions{}))
		}
		if most := amount(room); used+want > most {
			return outOf(name, want, used, most)
		}
	}
	return nil
}

func outOf(name corev1.ResourceName, requested, used, capacity int64) *refusal {
	return &refusal{"OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity)}
}

// sharedHostPort is a port of the node that both pods want, or 0.
func sharedHostPort(a, b *corev1.Pod) int32 {
	for _, x := range hostPorts(a) {
		for _, y := range hostPorts(b) {
			if x.HostPort == y.HostPort && x.Protocol == y.Protocol && (x.HostIP == y.HostIP || anyIP(x.HostIP) || anyIP(y.HostIP)) {
				return x.HostPort
			}
		}
	}
	return 0
}

func anyIP(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }

// hostPorts are the ports of the node that a pod's containers hold while it
// runs. Those of init containers are free again by then, but for sidecars'.
func hostPorts(p *corev1.Pod) (ports []corev1.ContainerPort) {
	add := func(c *corev1.Container) {
		for _, port := range c.Ports {
			if port.Protocol == "" {
				port.Protocol = corev1.ProtocolTCP
			}
			if port.HostPort != 0 {
				ports = append(ports, port)
			}
		}
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range p.Spec.Containers {
		add(&p.Spec.Containers[i])
	}
	return ports
}
