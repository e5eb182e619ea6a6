package authz

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

const (
	authentication = "authentication.k8s.io"
	authorization  = "authorization.k8s.io"
	certificates   = "certificates.k8s.io"
	coordination   = "coordination.k8s.io"
	discovery      = "discovery.k8s.io"
	networking     = "networking.k8s.io"
	resourceGroup  = "resource.k8s.io"
	storageGroup   = "storage.k8s.io"
)

// nodeRules are what the Node authorizer gives every node of what it does not
// narrow to the node's own, and the role system:node.
func nodeRules() []rbacv1.PolicyRule {
	return rules(
		on(verbs("create"), authentication, "tokenreviews"),
		on(verbs("create"), authorization, "subjectaccessreviews", "localsubjectaccessreviews"),
		on(readers, "", "services"),
		on(verbs("create", "get", "list", "watch"), "", "nodes"),
		on(patchers, "", "nodes/status"),
		on(patchers, "", "nodes"),
		on(verbs("create", "update", "patch"), "", "events"),
		on(readers, "", "pods"),
		on(verbs("create", "delete"), "", "pods"),
		on(patchers, "", "pods/status"),
		on(verbs("create"), "", "pods/eviction"),
		on(readers, "", "secrets", "configmaps"),
		on(verbs("get"), "", "persistentvolumeclaims", "persistentvolumes"),
		on(verbs("get"), "", "endpoints"),
		on(verbs("create", "get", "list", "watch"), certificates, "certificatesigningrequests"),
		on(ownVerbs, coordination, "leases"),
		on(verbs("get"), storageGroup, "volumeattachments"),
		on(verbs("create"), "", "serviceaccounts/token"),
		on(verbs("get"), "", "serviceaccounts"),
		on(verbs("get", "update", "patch"), "", "persistentvolumeclaims/status"),
		on(readers, storageGroup, "csidrivers"),
		on(ownVerbs, storageGroup, "csinodes"),
		on(readers, "node.k8s.io", "runtimeclasses"),
		on(verbs("get"), resourceGroup, "resourceclaims"),
		on(verbs("deletecollection"), resourceGroup, "resourceslices"),
		on(readers, certificates, "clustertrustbundles"),
		on(verbs("create", "get", "list", "watch"), certificates, "podcertificaterequests"),
	)
}

// components: upstream's own.
func (t *Table) components() {
	t.role("system:node", nodeRules()...)
	t.bind("system:node") // to nobody: that is the Node authorizer's
	t.role("system:node-problem-detector",
		on(verbs("get"), "", "nodes"), on(verbs("patch"), "", "nodes/status"), events())
	t.role("system:node-proxier",
		on(watchers, "", "services", "endpoints"), on(readers, "", "nodes"), events(),
		on(watchers, discovery, "endpointslices"), on(watchers, networking, "servicecidrs"))
	t.bind("system:node-proxier", userSubject(user.KubeProxy))
	t.role("system:node-bootstrapper",
		on(verbs("create", "get", "list", "watch"), certificates, "certificatesigningrequests"))
	t.role("system:kube-controller-manager", managerRules()...)
	t.bind("system:kube-controller-manager", userSubject(user.KubeControllerManager))
	t.role("system:kube-scheduler", schedulerRules()...)
	t.bind("system:kube-scheduler", userSubject(user.KubeScheduler))
	t.role("system:volume-scheduler",
		on(verbs("get", "list", "patch", "update", "watch"), "", "persistentvolumes"),
		on(readers, storageGroup, "storageclasses"),
		on(verbs("get", "list", "patch", "update", "watch"), "", "persistentvolumeclaims"))
	t.bind("system:volume-scheduler", userSubject(user.KubeScheduler))
}

func managerRules() []rbacv1.PolicyRule {
	return rules(
		events(),
		on(verbs("create"), coordination, "leases"),
		only(on(verbs("get", "update"), coordination, "leases"), "kube-controller-manager"),
		on(verbs("create"), "", "secrets", "serviceaccounts"),
		on(verbs("delete"), "", "secrets"),
		on(verbs("get"), "", "namespaces", "secrets", "serviceaccounts", "configmaps"),
		on(verbs("update"), "", "secrets", "serviceaccounts"),
		on(verbs("create"), authentication, "tokenreviews"),
		on(verbs("create"), authorization, "subjectaccessreviews"),
		on(watchers, "*", "*"),
		on(verbs("create"), "", "serviceaccounts/token"),
	)
}

func schedulerRules() []rbacv1.PolicyRule {
	return rules(
		events(),
		on(verbs("create"), coordination, "leases"),
		only(on(verbs("get", "update"), coordination, "leases"), "kube-scheduler"),
		on(verbs("create", "get", "list", "watch"), coordination, "leasecandidates"),
		on(readers, "", "nodes"),
		on(verbs("get", "list", "watch", "delete"), "", "pods"),
		on(verbs("create"), "", "pods/binding", "bindings"),
		on(patchers, "", "pods/status"),
		on(readers, "", "services", "replicationcontrollers"),
		onAny(readers, []string{"apps", "extensions"}, "replicasets"),
		on(readers, "apps", "statefulsets"),
		on(readers, "policy", "poddisruptionbudgets"),
		on(readers, "", "persistentvolumeclaims", "persistentvolumes"),
		on(verbs("create"), authentication, "tokenreviews"),
		on(verbs("create"), authorization, "subjectaccessreviews"),
		on(readers, storageGroup, "csinodes"),
		on(readers, "", "namespaces"),
		on(readers, storageGroup, "csidrivers"),
		on(readers, storageGroup, "csistoragecapacities"),
		on(readers, storageGroup, "volumeattachments"),
		on(readers, resourceGroup, "deviceclasses"),
		on(verbs("create", "delete", "get", "list", "patch", "update", "watch"), resourceGroup, "resourceclaims"),
		on(patchers, resourceGroup, "resourceclaims/status"),
		on(patchers, resourceGroup, "resourceclaims/binding"),
		on(verbs("update"), "", "pods/finalizers"),
		on(readers, resourceGroup, "resourceslices"),
		on(readers, resourceGroup, "devicetaintrules"),
	)
}

// addOns: what others that run in a cluster are bound to.
func (t *Table) addOns() {
	t.role("system:monitoring", paths("/metrics", "/metrics/slis", "/livez", "/readyz", "/healthz", "/livez/*", "/readyz/*", "/healthz/*"))
	t.bind("system:monitoring", groupSubject("system:monitoring"))
	t.role("system:auth-delegator",
		on(verbs("create"), authentication, "tokenreviews"),
		on(verbs("create"), authorization, "subjectaccessreviews"))
	t.role("system:kube-aggregator", on(readers, "", "services", "endpoints"))
	t.role("system:kubelet-api-admin",
		on(readers, "", "nodes"), on(verbs("proxy"), "", "nodes"),
		on(all, "", "nodes/proxy", "nodes/metrics", "nodes/stats", "nodes/log", "nodes/spec", "nodes/checkpoint", "nodes/configz", "nodes/healthz", "nodes/pods"))
	t.role("system:heapster",
		on(readers, "", "events", "pods", "nodes", "namespaces"), on(readers, "extensions", "deployments"))
	t.role("system:kube-dns", on(watchers, "", "endpoints", "services"))
	t.bind("system:kube-dns", accountSubject("kube-dns"))
	t.role("system:persistent-volume-provisioner",
		on(verbs("get", "list", "watch", "create", "delete"), "", "persistentvolumes"),
		on(verbs("get", "list", "watch", "update"), "", "persistentvolumeclaims"),
		on(readers, storageGroup, "storageclasses"),
		on(verbs("watch"), "", "events"), events())
	t.role("system:certificates.k8s.io:certificatesigningrequests:nodeclient",
		on(verbs("create"), certificates, "certificatesigningrequests/nodeclient"))
	t.role("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
		on(verbs("create"), certificates, "certificatesigningrequests/selfnodeclient"))
	for role, signer := range map[string]string{
		"legacy-unknown-approver": "legacy-unknown", "kubelet-serving-approver": "kubelet-serving",
		"kube-apiserver-client-approver": "kube-apiserver-client", "kube-apiserver-client-kubelet-approver": "kube-apiserver-client-kubelet",
	} {
		t.role("system:certificates.k8s.io:"+role, only(on(verbs("approve"), certificates, "signers"), "kubernetes.io/"+signer))
	}
}

// ours: the components of this project that are not upstream's.
func (t *Table) ours() {
	// The server itself, in its own process, is nobody's to keep out.
	t.bindAs("kontiki:apiserver", "cluster-admin", userSubject(user.APIServerUser))
	// All controllers are one user here, with what upstream's accounts have together.
	t.role("kontiki:controllers",
		on(verbs("get", "list", "watch", "delete", "deletecollection", "patch", "update"), "*", "*"), // namespaces and garbage
		on(verbs("create"), "", "pods", "endpoints", "endpoints/restricted", "configmaps", "secrets", "serviceaccounts",
			"serviceaccounts/token", "pods/eviction", "pods/binding", "persistentvolumes", "persistentvolumeclaims", "namespaces", "services"),
		on(verbs("create"), "apps", "replicasets", "controllerrevisions"),
		on(verbs("create"), "batch", "jobs"),
		on(verbs("create"), discovery, "endpointslices"),
		on(verbs("create"), networking, "ipaddresses"),
		on(verbs("create"), resourceGroup, "resourceclaims"),
		on(verbs("create"), storageGroup, "volumeattachments", "storageclasses"), // of these, local-path
		on(verbs("escalate"), "rbac.authorization.k8s.io", "clusterroles"),       // who aggregates roles
		on(verbs("approve", "sign"), certificates, "signers"))
	t.bind("kontiki:controllers", userSubject(user.KubeControllerManager))
	// The pod network of a node is its proxy, and more: it enforces policy.
	t.role("kontiki:network",
		on(readers, "", "pods", "namespaces", "services", "endpoints"), on(patchers, "", "nodes/status"),
		on(readers, networking, "networkpolicies"))
	t.bind("kontiki:network", userSubject(user.KubeProxy))
}
