package agent

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/pod"
)

// admit refuses a pod that cannot be on this node beside those that are: whoever
// named the node did not look. Such a pod fails, as on a kubelet.
func (a *Agent) admit(rec *pod.Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.pods {
		other := r.poster.snapshot()
		if other.Status.Phase == corev1.PodSucceeded || other.Status.Phase == corev1.PodFailed {
			continue
		}
		if port := sharedHostPort(rec.Pod, other); port != 0 {
			rec.Stopping = &pod.Stopping{At: time.Now(), Grace: time.Second, Phase: corev1.PodFailed, Reason: "NodePorts",
				Message: fmt.Sprintf("Pod was rejected: host port %d is taken by pod %s/%s", port, other.Namespace, other.Name)}
			return
		}
	}
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
