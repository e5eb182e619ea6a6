package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"sigs.k8s.io/yaml"

	"kontiki/apiserver"
	"kontiki/overlay"
)

// Settings are fixed when a cluster is formed and are the same on every node.
type Settings struct {
	Voters        int          `json:"voters"`        // how many nodes vote at most; odd
	ClusterCIDR   netip.Prefix `json:"clusterCIDR"`   // pods; a subnet of it for each node
	NodePrefixLen int          `json:"nodePrefixLen"` // length of a node's subnet
	ServiceCIDR   netip.Prefix `json:"serviceCIDR"`
	// SecondaryServiceCIDR, of IPv6, gives Services that ask for it a second address. The pod
	// network does not carry IPv6 yet: it is for who brings another way to it.
	SecondaryServiceCIDR netip.Prefix `json:"secondaryServiceCIDR,omitzero"`
	ClusterDNS           netip.Addr   `json:"clusterDNS"`
	ClusterDomain        string       `json:"clusterDomain"`
	// PodNetwork is the overlay's backend, vxlan (also when empty) or host-gw.
	PodNetwork string `json:"podNetwork,omitempty"`
}

// maxSubnetBits bounds how many subnets there are: two to the power of it.
const maxSubnetBits = 20

// DefaultSettings are those of a cluster whose founders said nothing.
func DefaultSettings() Settings {
	return Settings{
		Voters:        5,
		ClusterCIDR:   netip.MustParsePrefix("10.42.0.0/16"),
		NodePrefixLen: 24,
		ServiceCIDR:   netip.MustParsePrefix("10.43.0.0/16"),
		ClusterDNS:    netip.MustParseAddr("10.43.0.10"),
		ClusterDomain: "cluster.local",
	}
}

// ReadSettings reads cluster settings from a YAML file. What it does not say has
// its default; the default clusterDNS is the tenth address of serviceCIDR.
func ReadSettings(path string) (Settings, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Settings{}, fmt.Errorf("read the cluster settings: %w", err)
	}
	s := DefaultSettings()
	s.ClusterDNS = netip.Addr{}
	if err := yaml.UnmarshalStrict(data, &s); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", path, err)
	}
	if !s.ClusterDNS.IsValid() && s.ServiceCIDR.IsValid() {
		s.ClusterDNS = s.ServiceCIDR.Masked().Addr()
		for range 10 {
			s.ClusterDNS = s.ClusterDNS.Next()
		}
	}
	if err := s.validate(); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func (s Settings) validate() error {
	switch {
	case s.Voters < 1 || s.Voters > 9 || s.Voters%2 == 0:
		return fmt.Errorf("cluster settings: voters is %d; it must be 1, 3, 5, 7 or 9 (an even number survives no more losses than the odd one below it)", s.Voters)
	case !s.ClusterCIDR.IsValid() || !s.ServiceCIDR.IsValid():
		return errors.New("cluster settings: clusterCIDR and serviceCIDR must be prefixes like 10.42.0.0/16")
	case s.ClusterCIDR.Masked() != s.ClusterCIDR:
		return fmt.Errorf("cluster settings: clusterCIDR %s has bits beyond its length: %s is meant", s.ClusterCIDR, s.ClusterCIDR.Masked())
	case s.ServiceCIDR.Masked() != s.ServiceCIDR:
		return fmt.Errorf("cluster settings: serviceCIDR %s has bits beyond its length: %s is meant", s.ServiceCIDR, s.ServiceCIDR.Masked())
	case s.SecondaryServiceCIDR.IsValid() && s.SecondaryServiceCIDR.Masked() != s.SecondaryServiceCIDR:
		return fmt.Errorf("cluster settings: secondaryServiceCIDR %s has bits beyond its length: %s is meant", s.SecondaryServiceCIDR, s.SecondaryServiceCIDR.Masked())
	case s.ClusterCIDR.Overlaps(s.ServiceCIDR):
		return fmt.Errorf("cluster settings: clusterCIDR %s and serviceCIDR %s overlap", s.ClusterCIDR, s.ServiceCIDR)
	case !s.ClusterCIDR.Addr().Is4() || !s.ServiceCIDR.Addr().Is4():
		return fmt.Errorf("cluster settings: clusterCIDR %s and serviceCIDR %s: pods have IPv4 addresses only in this version", s.ClusterCIDR, s.ServiceCIDR)
	case apiserver.CheckServiceCIDRs(s.ServiceCIDR, s.SecondaryServiceCIDR) != nil:
		return fmt.Errorf("cluster settings: serviceCIDR %w", apiserver.CheckServiceCIDRs(s.ServiceCIDR, s.SecondaryServiceCIDR))
	case s.NodePrefixLen > s.ClusterCIDR.Addr().BitLen()-2:
		return fmt.Errorf("cluster settings: nodePrefixLen %d is too small a subnet: three addresses of each are not for pods; choose %d or less", s.NodePrefixLen, s.ClusterCIDR.Addr().BitLen()-2)
	case s.NodePrefixLen <= s.ClusterCIDR.Bits() || s.NodePrefixLen > s.ClusterCIDR.Bits()+maxSubnetBits:
		return fmt.Errorf("cluster settings: nodePrefixLen %d does not cut clusterCIDR %s into subnets: choose %d to %d", s.NodePrefixLen, s.ClusterCIDR, s.ClusterCIDR.Bits()+1, min(s.ClusterCIDR.Addr().BitLen()-2, s.ClusterCIDR.Bits()+maxSubnetBits))
	case !s.ServiceCIDR.Contains(s.ClusterDNS):
		return fmt.Errorf("cluster settings: clusterDNS %s is not in serviceCIDR %s", s.ClusterDNS, s.ServiceCIDR)
	case s.PodNetwork != "" && overlay.CheckBackend(s.PodNetwork) != nil:
		return overlay.CheckBackend(s.PodNetwork)
	case len(s.ClusterDomain) > 253 || !nodeName.MatchString(s.ClusterDomain):
		return fmt.Errorf("cluster settings: clusterDomain %q is no domain name: use lower-case letters, digits, '-' and '.'", s.ClusterDomain)
	}
	return nil
}

// serviceCIDRs are the ranges of Services, the primary one first.
func (s Settings) serviceCIDRs() []netip.Prefix {
	if !s.SecondaryServiceCIDR.IsValid() {
		return []netip.Prefix{s.ServiceCIDR}
	}
	return []netip.Prefix{s.ServiceCIDR, s.SecondaryServiceCIDR}
}

// encode gives equal settings equal bytes: founders compare them.
func (s Settings) encode() []byte {
	data, err := json.Marshal(s)
	if err != nil {
		panic("node: settings of plain fields do not encode: " + err.Error())
	}
	return data
}

func decodeSettings(data []byte) (Settings, error) {
	var s Settings
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("cluster settings: %w", err)
	}
	return s, s.validate()
}
