package apiserver

import (
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"kontiki/apiserver/allocate"
	"kontiki/apiserver/apps"
	"kontiki/apiserver/coordination"
	"kontiki/apiserver/core"
	"kontiki/apiserver/discovery"
	"kontiki/apiserver/events"
	"kontiki/apiserver/kind"
)

// apiGroups is every API group that is served. Core comes first, because the
// others share kinds with it.
func apiGroups(cfg Config, ledger *allocate.Ledger, authorize authorizer.Authorizer) []kind.Group {
	return []kind.Group{
		core.Group(core.Config{
			Ledger:     ledger,
			ClusterIPs: allocate.NewIPs(ledger, cfg.Settings.ServiceCIDR),
			NodePorts:  allocate.NewPorts(ledger, cfg.Settings.NodePorts[0], cfg.Settings.NodePorts[1]),
			Agents:     cfg.Agents,
			Authorizer: authorize,
		}),
		apps.Group(),
		coordination.Group(),
		discovery.Group(),
		events.Group(),
	}
}
