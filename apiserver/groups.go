package apiserver

import (
	"net/netip"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"

	"kontiki/apiserver/access"
	"kontiki/apiserver/admissionregistration"
	"kontiki/apiserver/allocate"
	"kontiki/apiserver/apps"
	"kontiki/apiserver/authz"
	"kontiki/apiserver/autoscaling"
	"kontiki/apiserver/batch"
	"kontiki/apiserver/certificates"
	"kontiki/apiserver/coordination"
	"kontiki/apiserver/core"
	"kontiki/apiserver/devices"
	"kontiki/apiserver/discovery"
	"kontiki/apiserver/events"
	"kontiki/apiserver/flowcontrol"
	"kontiki/apiserver/kind"
	"kontiki/apiserver/metrics"
	"kontiki/apiserver/migration"
	"kontiki/apiserver/networking"
	"kontiki/apiserver/policy"
	"kontiki/apiserver/rbac"
	"kontiki/apiserver/scheduling"
	"kontiki/apiserver/volumes"
)

// apiGroups is every API group that is served. Core comes first, because the
// others share kinds with it.
func apiGroups(cfg Config, ledger *allocate.Ledger, authorize authorizer.Authorizer, roles *authz.Authorizer, rules authorizer.RuleResolver, who authenticator.Request, tokenRequests rest.Storage, client kubernetes.Interface) []kind.Group {
	return []kind.Group{
		core.Group(core.Config{
			Ledger:        ledger,
			ClusterIPs:    clusterIPs(ledger, cfg.Settings.serviceCIDRs()),
			NodePorts:     allocate.NewPorts(ledger, cfg.Settings.NodePorts[0], cfg.Settings.NodePorts[1]),
			Agents:        cfg.Agents,
			Authorizer:    authorize,
			Budgets:       client.PolicyV1(),
			Slices:        client.DiscoveryV1(),
			Pods:          client.CoreV1(),
			TokenRequests: tokenRequests,
		}),
		admissionregistration.Group(),
		apps.Group(),
		autoscaling.Group(),
		batch.Group(),
		certificates.Group(),
		coordination.Group(),
		devices.Group(),
		discovery.Group(),
		events.Group(),
		flowcontrol.Group(),
		metrics.Group(metrics.Config{Agents: cfg.Agents, Core: client.CoreV1()}),
		migration.Group(),
		networking.Group(),
		networking.NodeGroup(),
		policy.Group(),
		rbac.Group(rbac.Guard{Rules: roles, Authorizer: authorize}),
		access.AuthorizationGroup(authorize, rules),
		access.AuthenticationGroup(who, apiAudiences),
		scheduling.Group(),
		volumes.Group(),
	}
}

// clusterIPs are the addresses of Services, a family for each of the cluster's ranges.
func clusterIPs(ledger *allocate.Ledger, ranges []netip.Prefix) []*allocate.IPs {
	var all []*allocate.IPs
	for _, r := range ranges {
		all = append(all, allocate.NewIPs(ledger, allocate.Family(r.Addr())))
	}
	return all
}
