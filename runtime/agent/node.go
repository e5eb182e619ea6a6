package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kontiki/runtime/pod"
)

// memoryReserved is kept from pods, as upstream keeps its hard eviction threshold.
const memoryReserved = 100 << 20

// How often the node's own facts are looked at. Looking costs microseconds and
// writes nothing; only a difference is written.
const (
	nodeCheckFast = 200 * time.Millisecond // until the Node is Ready
	nodeCheckSlow = 10 * time.Second
)

// nodeFacts is everything planNode decides from.
type nodeFacts struct {
	Config   *Config
	Host     hostFacts
	Addrs    []netip.Addr
	NotReady error // why the node cannot take pods, nil when it can
	Images   []corev1.ContainerImage
	Now      metav1.Time
}

// planNode returns what the Node should look like, given what it looks like now
// (nil: it does not exist). It keeps everything that others write.
func planNode(cur *corev1.Node, f nodeFacts) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: f.Config.NodeName}}
	if cur != nil {
		n = cur.DeepCopy()
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	maps.Copy(n.Labels, f.Config.Labels)
	for _, k := range []string{corev1.LabelOSStable, "beta.kubernetes.io/os"} {
		n.Labels[k] = f.Host.OS
	}
	for _, k := range []string{corev1.LabelArchStable, "beta.kubernetes.io/arch"} {
		n.Labels[k] = f.Host.Arch
	}
	n.Labels[corev1.LabelHostname] = f.Config.NodeName
	if f.Config.NodeID != "" {
		if n.Annotations == nil {
			n.Annotations = map[string]string{}
		}
		n.Annotations[NodeIDAnnotation] = f.Config.NodeID
		n.Annotations[VolumesPathAnnotation] = volumesPath(f.Config)
		if n.Spec.ProviderID == "" {
			n.Spec.ProviderID = "kontiki://" + f.Config.NodeID
		}
	}
	planNodeStatus(&n.Status, f)
	return n
}

func planNodeStatus(st *corev1.NodeStatus, f nodeFacts) {
	st.Addresses = nil
	for _, a := range f.Addrs {
		st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: f.Config.NodeName})
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(f.Host.CPUs), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(f.Host.MemoryBytes, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(f.Host.StorageBytes, resource.BinarySI),
		corev1.ResourcePods:             *podsQuantity(f.Config),
	}
	st.Capacity, st.Allocatable = capacity, allocatable(f.Host)
	st.Allocatable[corev1.ResourcePods] = capacity[corev1.ResourcePods]
	st.NodeInfo = corev1.NodeSystemInfo{
		MachineID: f.Host.MachineID, SystemUUID: f.Host.SystemUUID, BootID: f.Host.BootID,
		KernelVersion: f.Host.KernelVersion, OSImage: f.Host.OSImage,
		OperatingSystem: f.Host.OS, Architecture: f.Host.Arch,
		ContainerRuntimeVersion: "kontiki://" + f.Config.Version, KubeletVersion: f.Config.Version,
	}
	st.Images = f.Images
	st.RuntimeHandlers = []corev1.NodeRuntimeHandler{{Name: ""}, {Name: pod.RuntimeHandler}}
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	if f.NotReady != nil {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "KubeletNotReady", f.NotReady.Error()
	}
	for _, c := range []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "kubelet has sufficient memory available"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", Message: "kubelet has no disk pressure"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID", Message: "kubelet has sufficient PID available"},
		ready,
	} {
		setNodeCondition(st, c, f.Now)
	}
}

func podsQuantity(c *Config) *resource.Quantity {
	return resource.NewQuantity(int64(c.MaxPods), resource.DecimalSI)
}

// allocatable is what pods may have of the machine.
func allocatable(h hostFacts) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(h.CPUs), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(max(0, h.MemoryBytes-memoryReserved), resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(h.StorageBytes/10*9, resource.BinarySI),
	}
}

// setNodeCondition writes a condition only where it differs. The heartbeat time
// moves with the rest: liveness is the ring's business, not the store's.
func setNodeCondition(st *corev1.NodeStatus, c corev1.NodeCondition, now metav1.Time) {
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	for i := range st.Conditions {
		old := &st.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message {
			return
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		*old = c
		return
	}
	st.Conditions = append(st.Conditions, c)
}

// tellNode has an event about this node.
func (a *Agent) tellNode(eventType, reason, message string) {
	a.events.Event(&corev1.ObjectReference{Kind: "Node", Name: a.cfg.NodeName, UID: types.UID(a.cfg.NodeName)}, eventType, reason, message)
}

// keepNode registers the Node and keeps it as planNode wants it, until ctx ends.
func (a *Agent) keepNode(ctx context.Context) {
	delay := time.Duration(0)
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		ready, err := a.syncNode(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !failing {
				a.log.Warn("cannot write the Node yet, trying again", "error", err)
			}
			failing, delay = true, nodeCheckFast*5
		case !ready:
			failing, delay = false, nodeCheckFast
		default:
			failing, delay = false, nodeCheckSlow
		}
	}
}

// syncNode brings the Node object to the plan once.
func (a *Agent) syncNode(ctx context.Context) (ready bool, err error) {
	f := nodeFacts{Config: &a.cfg, Host: a.host, Images: a.images.current(), Addrs: a.cfg.Address(), NotReady: a.cfg.NetworkReady(), Now: metav1.Now().Rfc3339Copy()}
	if f.NotReady != nil {
		f.NotReady = fmt.Errorf("container runtime network not ready: %w", f.NotReady)
	}
	nodes := a.cfg.Client.CoreV1().Nodes()
	// The local replica's word is good enough to see that nothing changed; a stale
	// one costs a conflict, after which the next round reads again.
	cur, err := nodes.Get(ctx, a.cfg.NodeName, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		want := planNode(nil, f)
		if cur, err = nodes.Create(ctx, want, metav1.CreateOptions{}); err != nil {
			return false, fmt.Errorf("register node %s: %w", a.cfg.NodeName, err)
		}
		a.log.Info("node registered")
	} else if err != nil {
		return false, fmt.Errorf("get node %s: %w", a.cfg.NodeName, err)
	}
	if booted := a.host.BootID; cur.Status.NodeInfo.BootID != "" && cur.Status.NodeInfo.BootID != booted && !a.rebooted {
		a.rebooted = true
		a.tellNode(corev1.EventTypeWarning, "Rebooted", fmt.Sprintf("Node %s has been rebooted, boot id: %s", a.cfg.NodeName, booted))
	}
	if off := cur.Spec.Unschedulable; a.cordoned != nil && *a.cordoned != off {
		reason := "NodeSchedulable"
		if off {
			reason = "NodeNotSchedulable"
		}
		a.tellNode(corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", a.cfg.NodeName, reason))
	}
	a.cordoned = new(cur.Spec.Unschedulable)
	want := planNode(cur, f)
	if !equality.Semantic.DeepEqual(cur.ObjectMeta, want.ObjectMeta) || !equality.Semantic.DeepEqual(cur.Spec, want.Spec) {
		status := want.Status
		if want, err = nodes.Update(ctx, want, metav1.UpdateOptions{}); err != nil {
			return false, fmt.Errorf("update node %s: %w", a.cfg.NodeName, err)
		}
		cur = want.DeepCopy()
		want.Status = status
	}
	if !equality.Semantic.DeepEqual(cur.Status, want.Status) {
		if _, err = nodes.UpdateStatus(ctx, want, metav1.UpdateOptions{}); err != nil {
			return false, fmt.Errorf("update status of node %s: %w", a.cfg.NodeName, err)
		}
	}
	return f.NotReady == nil, nil
}
