package overlay

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"kontiki/overlay/dns"
)

// The ConfigMap that tells the cluster's DNS which servers to ask for some
// domains (key stubDomains) and for all others instead of the nodes' own (key
// upstreamNameservers), in the words that kube-dns knew:
//
//	stubDomains: '{"corp.example": ["10.1.2.3", "10.1.2.4:5353"]}'
//	upstreamNameservers: '["192.0.2.53"]'
const (
	dnsConfigNamespace = "kube-system"
	dnsConfigName      = "kontiki-dns"
)

// dnsConfig is what that ConfigMap says.
type dnsConfig struct {
	stubs     []dns.Stub
	upstreams []netip.AddrPort // nil: the nodes' own
}

func parseDNSConfig(cm *corev1.ConfigMap) (dnsConfig, error) {
	var out dnsConfig
	if cm == nil {
		return out, nil
	}
	var stubs map[string][]string
	if raw := cm.Data["stubDomains"]; raw != "" {
		if err := json.Unmarshal([]byte(raw), &stubs); err != nil {
			return out, fmt.Errorf("stubDomains is not like {\"corp.example\": [\"10.1.2.3\"]}: %w", err)
		}
	}
	for domain, list := range stubs {
		if _, ok := mdns.IsDomainName(domain); !ok {
			return dnsConfig{}, fmt.Errorf("stubDomains: %q is no domain", domain)
		}
		servers, err := parseServers(list)
		if err != nil {
			return dnsConfig{}, fmt.Errorf("stubDomains, %s: %w", domain, err)
		}
		out.stubs = append(out.stubs, dns.Stub{Domain: mdns.CanonicalName(domain), Servers: servers})
	}
	slices.SortFunc(out.stubs, func(a, b dns.Stub) int { return strings.Compare(a.Domain, b.Domain) })
	if raw := cm.Data["upstreamNameservers"]; raw != "" {
		var list []string
		if err := json.Unmarshal([]byte(raw), &list); err != nil {
			return dnsConfig{}, fmt.Errorf("upstreamNameservers is not like [\"192.0.2.53\"]: %w", err)
		}
		servers, err := parseServers(list)
		if err != nil {
			return dnsConfig{}, fmt.Errorf("upstreamNameservers: %w", err)
		}
		out.upstreams = servers
	}
	return out, nil
}

// parseServers reads addresses with or without a port.
func parseServers(list []string) ([]netip.AddrPort, error) {
	if len(list) == 0 {
		return nil, fmt.Errorf("no server is named")
	}
	var out []netip.AddrPort
	for _, s := range list {
		if addr, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.AddrPortFrom(addr, 53))
			continue
		}
		at, err := netip.ParseAddrPort(s)
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor an address with a port", s)
		}
		out = append(out, at)
	}
	return out, nil
}

// dnsConfigChanged takes over what the ConfigMap says; one that cannot be read
// changes nothing.
func (n *Network) dnsConfigChanged() {
	var cm *corev1.ConfigMap
	if obj, ok, err := n.objects.dns.GetStore().GetByKey(dnsConfigNamespace + "/" + dnsConfigName); err == nil && ok {
		cm, _ = obj.(*corev1.ConfigMap)
	}
	parsed, err := parseDNSConfig(cm)
	if err != nil {
		n.log.Error("ConfigMap "+dnsConfigNamespace+"/"+dnsConfigName+" is not used", "error", err)
		return
	}
	n.dnsConfig.Store(&parsed)
	if n.dns != nil {
		n.dns.Forget()
	}
}
