package apiserver

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/value"

	"kontiki/apiserver/admission"
	"kontiki/apiserver/core"
	"kontiki/apiserver/storage"
)

// AgentTransport leads to the agents of nodes; node fills it from the cluster port.
type AgentTransport = core.AgentTransport

// Settings are fixed when a cluster is formed and are equal on every node.
type Settings struct {
	// ServiceCIDR is where cluster IPs come from. Its first address is the
	// Service default/kubernetes, its tenth the cluster's DNS.
	ServiceCIDR netip.Prefix
	// SecondaryServiceCIDR is a range of the other address family, which makes the cluster's
	// Services dual-stack; none when invalid.
	SecondaryServiceCIDR netip.Prefix
	// NodePorts is the range of node ports, both ends included; 30000-32767 when zero.
	NodePorts [2]uint16
}

// serviceCIDRs are the ranges, the primary one first.
func (s Settings) serviceCIDRs() []netip.Prefix {
	if !s.SecondaryServiceCIDR.IsValid() {
		return []netip.Prefix{s.ServiceCIDR}
	}
	return []netip.Prefix{s.ServiceCIDR, s.SecondaryServiceCIDR}
}

// CheckServiceCIDRs refuses ranges that Services cannot live in. The error begins with the
// range.
func CheckServiceCIDRs(primary, secondary netip.Prefix) error {
	for _, r := range (Settings{ServiceCIDR: primary, SecondaryServiceCIDR: secondary}).serviceCIDRs() {
		switch {
		case r.Addr().BitLen()-r.Bits() < 4:
			return fmt.Errorf("%s is too small: give it 16 addresses or more", r)
		case r.Addr().Is6() && r.Bits() < 64:
			return fmt.Errorf("%s is too large: no addresses are given from ranges of IPv6 that are larger than a /64", r)
		}
	}
	if secondary.IsValid() && primary.Addr().Is4() == secondary.Addr().Is4() {
		return fmt.Errorf("%s and %s are of one address family: a second range must be of the other one", primary, secondary)
	}
	return nil
}

// Config is what a Server is made of. Store, Settings.ServiceCIDR and Logger are
// required.
type Config struct {
	Store storage.Backend // *raftstore.Store
	// ClientCA returns the certificates that sign clients' certificates. It is
	// asked for every request with a certificate; nil lets nobody in that way.
	ClientCA func() *x509.CertPool
	// Now is the clock that clients' certificates are checked with, and tokens are made
	// and checked; time.Now when nil.
	Now func() time.Time
	// ServiceAccountKey signs the tokens of service accounts: ECDSA over P-256.
	// Nil serves and believes none.
	ServiceAccountKey crypto.Signer
	// Transformers encrypt the values of a resource in the store.
	Transformers map[schema.GroupResource]value.Transformer
	Settings     Settings
	// FrontProxy is this server's certificate towards aggregated API servers.
	FrontProxy FrontProxy
	// Agents leads to the nodes' agents, for logs; nil answers 503.
	Agents AgentTransport
	// Audit says which requests are noted; the zero value notes none.
	Audit Audit
	// Tolerations are how long pods that do not say it stay on a node that is not
	// ready or unreachable; 30 s each when nil.
	Tolerations *Tolerations
	// Version is Kontiki's own; it is told beside the API's in /version.
	Version string
	Logger  *slog.Logger
}

// Tolerations are admission's.
type Tolerations = admission.Tolerations

func (c *Config) complete() error {
	if c.Tolerations == nil {
		c.Tolerations = &admission.ShortTolerations
	}
	switch {
	case c.Store == nil:
		return errors.New("apiserver: Config.Store is missing")
	case c.Logger == nil:
		return errors.New("apiserver: Config.Logger is missing")
	case !c.Settings.ServiceCIDR.IsValid():
		return errors.New("apiserver: Config.Settings.ServiceCIDR is missing")
	}
	if err := CheckServiceCIDRs(c.Settings.ServiceCIDR, c.Settings.SecondaryServiceCIDR); err != nil {
		return fmt.Errorf("apiserver: the service range %w", err)
	}
	c.Settings.ServiceCIDR = c.Settings.ServiceCIDR.Masked()
	if c.Settings.SecondaryServiceCIDR.IsValid() {
		c.Settings.SecondaryServiceCIDR = c.Settings.SecondaryServiceCIDR.Masked()
	}
	if c.Settings.NodePorts == [2]uint16{} {
		c.Settings.NodePorts = [2]uint16{30000, 32767}
	}
	return nil
}
