package node

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"kontiki/gossip"
	"kontiki/internal/port"
)

// certificateCheck is how often the node looks whether its certificate still
// fits. It costs a route lookup.
const certificateCheck = 10 * time.Second

// startMembership lets the cluster port speak as a member, and keeps the node's
// certificate fresh and true to its address from then on.
func (n *node) startMembership(life *lifecycle) error {
	if err := n.ring.SetSelf(gossip.Meta{ClusterID: n.charter.ClusterID, Epoch: string(n.charter.Epoch), Zone: n.cfg.Zone, Version: n.cfg.Version}); err != nil {
		return err
	}
	renewed, addr, err := n.renewCertificates()
	if err != nil {
		return err
	}
	life.start("certificates", func(ctx context.Context) error {
		keepFresh(ctx, renewed, addr, n.now, n.advertise, func() (time.Time, netip.Addr, error) {
			at, addr, err := n.renewCertificates()
			if err != nil {
				n.log.Error("renewing the node's certificates failed; will try again", "err", err)
			}
			return at, addr, err
		})
		return nil
	})
	return nil
}

// keepFresh renews what was signed at a time for an address when it has become old, the
// address is another, or that time is still to come, until ctx ends: a machine's clock may have
// been ahead at the start, and set right since, and nobody takes what is of the future. What
// could not be renewed is tried again.
func keepFresh(ctx context.Context, signed time.Time, addr netip.Addr, now func() time.Time, address func() netip.Addr, renew func() (time.Time, netip.Addr, error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(certificateCheck):
		}
		if at := now(); address() == addr && !at.Before(signed) && at.Before(signed.Add(renewAfter)) {
			continue
		}
		if at, of, err := renew(); err == nil {
			signed, addr = at, of
		}
	}
}

// renewAfter leaves certificates (a year) most of their life as a reserve.
const renewAfter = 60 * 24 * time.Hour

// renewCertificates signs the node's own certificate, as every replica can, and
// writes the admin's kubeconfig anew. A full disk must not keep a node from starting: if
// the file cannot be written, the zero time has it tried again.
func (n *node) renewCertificates() (at time.Time, addr netip.Addr, err error) {
	at, addr = n.now(), n.advertise()
	names := []string{
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc." + n.charter.Settings.ClusterDomain,
	}
	addrs := []netip.Addr{
		netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback(),
		n.charter.Settings.ServiceCIDR.Masked().Addr().Next(),
	}
	if addr.IsValid() {
		addrs = append(addrs, addr)
	}
	cert, err := n.charter.trust.Authority.Node(n.id, n.cfg.Name, names, addrs, at)
	if err != nil {
		return at, addr, err
	}
	if err := n.clock.Store(); err != nil { // now, since this is rare
		n.log.Error("the time cannot be stored; a start with a wrong clock would be taken for an earlier one", "err", err)
	}
	n.port.SetMembership(port.Membership{Authority: n.charter.trust.Authority, Cert: cert})
	if err := n.writeKubeconfig(); err != nil {
		n.problems.report("kubeconfig", fmt.Sprintf("the admin's kubeconfig cannot be written, and may be out of date: %v", err))
		return time.Time{}, addr, nil
	}
	n.problems.solved("kubeconfig")
	return at, addr, nil
}
