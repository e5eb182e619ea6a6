package agent

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Network gives pods their addresses. Both calls can be repeated: attaching an
// attached pod returns the addresses it has, detaching an unknown one succeeds.
type Network interface {
	Attach(ctx context.Context, pod PodAttachment) ([]netip.Addr, error)
	Detach(ctx context.Context, uid string) error
	// Retain detaches all pods but those named. It is called once when the agent
	// starts, with the pods on its disk.
	Retain(ctx context.Context, uids []string) error
}

// PodAttachment is a pod that wants an address.
type PodAttachment struct {
	UID, Namespace, Name string
	NetNS                string // path of the pinned network namespace
	HostPorts            []HostPort
	// OwnPath says that the pod's resolv.conf searches domains that only it names.
	OwnPath bool
}

// HostPort is a port of the node that leads to a port of the pod.
type HostPort struct {
	HostIP        string // empty: every address of the node
	HostPort      uint16
	ContainerPort uint16
	Protocol      corev1.Protocol
}

// network adapts Network to what pod workers ask.
type network struct{ n Network }

func (x network) Attach(ctx context.Context, p *corev1.Pod, netns string) ([]netip.Addr, error) {
	att := PodAttachment{UID: string(p.UID), Namespace: p.Namespace, Name: p.Name, NetNS: netns,
		OwnPath: p.Spec.DNSPolicy == corev1.DNSNone || p.Spec.DNSConfig != nil && len(p.Spec.DNSConfig.Searches) > 0}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			for _, port := range list[i].Ports {
				if port.HostPort > 0 {
					att.HostPorts = append(att.HostPorts, HostPort{HostIP: port.HostIP, HostPort: uint16(port.HostPort), ContainerPort: uint16(port.ContainerPort), Protocol: port.Protocol})
				}
			}
		}
	}
	return x.n.Attach(ctx, att)
}

func (x network) Detach(ctx context.Context, uid string) error { return x.n.Detach(ctx, uid) }
