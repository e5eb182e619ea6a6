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
}

// PodAttachment is a pod that wants an address.
type PodAttachment struct {
	UID, Namespace, Name string
	NetNS                string // path of the pinned network namespace
	HostPorts            []HostPort
}

// HostPort is a port of the node that leads to a port of the pod.
type HostPort struct {
	HostIP        string // empty: every address of the node
	HostPort      uint16
	ContainerPort uint16
	Protocol      corev1.Protocol
}
