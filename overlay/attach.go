package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"kontiki/overlay/datapath"
	"kontiki/overlay/ipam"
)

// Attach gives the pod its addresses and links its network namespace to the pod
// network. When it returns, the pod can talk and be talked to. It may be
// repeated: the same uid gets the same addresses.
func (n *Network) Attach(ctx context.Context, pod PodAttachment) ([]netip.Addr, error) {
	if pod.UID == "" || pod.NetNS == "" {
		return nil, errors.New("attaching a pod: uid and network namespace are needed")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := n.lockFor(ctx, pod.UID); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	if !n.compared {
		if err := n.reconcileLocked(); err != nil {
			return nil, fmt.Errorf("attaching pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	if n.mtu == 0 {
		return nil, fmt.Errorf("attaching pod %s/%s: the node's own address %s is on no device yet", pod.Namespace, pod.Name, n.cfg.Underlay())
	}
	// The book comes first: a link without a record is removed as a leftover, a
	// record without a link is found by its uid.
	rec, err := n.book.Allocate(ipam.Record{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, NetNS: pod.NetNS, HostPorts: pod.HostPorts, OwnPath: pod.OwnPath})
	if err != nil {
		return nil, fmt.Errorf("attaching pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	err = n.linkLocked(rec)
	if err != nil && !n.kernel.HasBridge() {
		// Somebody removed the bridge just now.
		if err = n.reconcileLocked(); err == nil {
			err = n.linkLocked(rec)
		}
	}
	if err == nil {
		err = n.setHostPorts(rec)
	}
	if err != nil {
		return nil, fmt.Errorf("attaching pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return rec.Addrs, nil
}

func (n *Network) linkLocked(rec ipam.Record) error {
	for _, addr := range rec.Addrs {
		if !addr.Is4() {
			continue
		}
		return n.kernel.AttachPod(datapath.Pod{UID: rec.UID, NetNS: rec.NetNS, Addr: addr, Gateway: n.gatewayLocked(), MTU: n.mtu})
	}
	return nil
}

// gatewayLocked is the node's address in its first IPv4 subnet. Pods know it by
// a route of their own, so that it need not be of the same subnet as theirs.
func (n *Network) gatewayLocked() netip.Addr {
	for _, s := range n.grant.Subnets {
		if s.Addr().Is4() {
			return ipam.Gateway(s)
		}
	}
	return netip.Addr{}
}

// lockFor takes n.mu at a time when nobody removes the pod's link.
func (n *Network) lockFor(ctx context.Context, uid string) error {
	for {
		n.mu.Lock()
		busy, ok := n.detaching[uid]
		if !ok {
			return nil
		}
		n.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Detach removes the pod's link and gives its addresses back. A pod that is not
// attached is no error. While the kernel removes the link (it waits for all
// packets under way), other pods are attached and detached.
func (n *Network) Detach(ctx context.Context, uid string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.lockFor(ctx, uid); err != nil {
		return err
	}
	if err := n.setHostPorts(ipam.Record{UID: uid}); err != nil {
		n.mu.Unlock()
		return err
	}
	done := make(chan struct{})
	n.detaching[uid] = done
	n.mu.Unlock()

	err := n.remover.DetachPod(uid)

	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.detaching, uid)
	close(done)
	if err != nil {
		return err
	}
	return n.book.Release(uid)
}

// Retain detaches all pods but those given. The agent calls it after a start,
// with the pods it knows: so nothing leaks of a pod that went while nobody looked.
func (n *Network) Retain(ctx context.Context, uids []string) error {
	keep := map[string]bool{}
	for _, uid := range uids {
		keep[uid] = true
	}
	var errs []error
	for _, rec := range n.book.Records() {
		if !keep[rec.UID] {
			errs = append(errs, n.Detach(ctx, rec.UID))
		}
	}
	return errors.Join(errs...)
}

// restoreLinksLocked makes links again that somebody removed, and has running
// pods follow the MTU. A pod whose namespace is gone is left to the agent, which
// will attach or detach it.
func (n *Network) restoreLinksLocked() error {
	if n.mtu == 0 {
		return nil
	}
	links, err := n.kernel.PodLinks()
	if err != nil {
		return err
	}
	var errs []error
	for _, rec := range n.book.Records() {
		if n.detaching[rec.UID] != nil || links[datapath.PortName(rec.UID)] == n.mtu {
			continue
		}
		if err := n.linkLocked(rec); err != nil && !errors.Is(err, datapath.ErrNoNamespace) {
			errs = append(errs, fmt.Errorf("linking pod %s/%s again: %w", rec.Namespace, rec.Name, err))
		}
	}
	return errors.Join(errs...)
}
