package authz

import rbacv1 "k8s.io/api/rbac/v1"

// controllers: a role for each of upstream's controllers, and its account in
// kube-system that has it. Controllers that run outside are started with them.
func (t *Table) controllers() {
	for _, group := range []map[string][]rbacv1.PolicyRule{workloadControllers(), volumeControllers(), clusterControllers()} {
		for name, r := range group {
			role := "system:controller:" + name
			t.role(role, r...)
			t.bind(role, accountSubject(name))
		}
	}
}

var (
	// workloads were in two groups once.
	workloads = []string{"apps", "extensions"}
	keepers   = []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	podMakers = []string{"list", "watch", "create", "delete", "patch"}
)

func workloadControllers() map[string][]rbacv1.PolicyRule {
	return map[string][]rbacv1.PolicyRule{
		"cronjob-controller": rules(
			on(verbs("get", "list", "watch", "update"), "batch", "cronjobs"), on(keepers, "batch", "jobs"),
			on(verbs("update"), "batch", "cronjobs/status"), on(verbs("update"), "batch", "cronjobs/finalizers"),
			on(verbs("list", "watch", "delete"), "", "pods"), events()),
		"daemon-set-controller": rules(
			onAny(readers, workloads, "daemonsets"), onAny(verbs("update"), workloads, "daemonsets/status"),
			onAny(verbs("update"), workloads, "daemonsets/finalizers"), on(watchers, "", "nodes"),
			on(podMakers, "", "pods"), on(verbs("create"), "", "pods/binding"), on(keepers, "apps", "controllerrevisions"), events()),
		"deployment-controller": rules(
			onAny(verbs("get", "list", "watch", "update"), workloads, "deployments"), onAny(verbs("update"), workloads, "deployments/status"),
			onAny(verbs("update"), workloads, "deployments/finalizers"), onAny(keepers, workloads, "replicasets"),
			on(verbs("get", "list", "watch", "update"), "", "pods"), events()),
		"disruption-controller": rules(
			onAny(readers, workloads, "deployments"), onAny(readers, workloads, "replicasets"), on(readers, "", "replicationcontrollers"),
			on(readers, "policy", "poddisruptionbudgets"), on(readers, "apps", "statefulsets"),
			on(verbs("update"), "policy", "poddisruptionbudgets/status"), on(patchers, "", "pods/status"), on(verbs("get"), "*", "*/scale"), events()),
		"horizontal-pod-autoscaler": rules(
			on(readers, "autoscaling", "horizontalpodautoscalers"), on(verbs("update"), "autoscaling", "horizontalpodautoscalers/status"),
			on(verbs("get", "update"), "*", "*/scale"), on(watchers, "", "pods"), on(watchers, "metrics.k8s.io", "pods"),
			on(readers, "custom.metrics.k8s.io", "*"), on(readers, "external.metrics.k8s.io", "*"), events()),
		"job-controller": rules(
			on(verbs("get", "list", "watch", "update", "patch"), "batch", "jobs"), on(verbs("update"), "batch", "jobs/status"),
			on(verbs("update"), "batch", "jobs/finalizers"), on(podMakers, "", "pods"), events()),
		"pod-garbage-collector": rules(
			on(verbs("list", "watch", "delete"), "", "pods"), on(readers, "", "nodes"), on(verbs("patch"), "", "pods/status")),
		"replicaset-controller": rules(
			onAny(verbs("get", "list", "watch", "update"), workloads, "replicasets"), onAny(verbs("update"), workloads, "replicasets/status"),
			onAny(verbs("update"), workloads, "replicasets/finalizers"), on(podMakers, "", "pods"), events()),
		"replication-controller": rules(
			on(verbs("get", "list", "watch", "update"), "", "replicationcontrollers"), on(verbs("update"), "", "replicationcontrollers/status"),
			on(verbs("update"), "", "replicationcontrollers/finalizers"), on(podMakers, "", "pods"), events()),
		"statefulset-controller": rules(
			on(watchers, "", "pods"), on(readers, "apps", "statefulsets"), on(verbs("update"), "apps", "statefulsets/status"),
			on(verbs("update"), "apps", "statefulsets/finalizers"), on(verbs("get", "create", "delete", "update", "patch"), "", "pods"),
			on(keepers, "apps", "controllerrevisions"), on(verbs("get", "create", "list", "watch"), "", "persistentvolumeclaims"),
			on(verbs("update", "delete"), "", "persistentvolumeclaims"), on(verbs("update"), "", "pods/finalizers"), events()),
		"ttl-after-finished-controller": rules(on(verbs("get", "list", "watch", "delete"), "batch", "jobs"), events()),
	}
}

func volumeControllers() map[string][]rbacv1.PolicyRule {
	return map[string][]rbacv1.PolicyRule{
		"attachdetach-controller": rules(
			on(watchers, "", "persistentvolumes", "persistentvolumeclaims"), on(readers, "", "nodes"), on(patchers, "", "nodes/status"),
			on(watchers, "", "pods"), events(), on(verbs("get", "create", "delete", "list", "watch"), storageGroup, "volumeattachments"),
			on(readers, storageGroup, "csidrivers"), on(readers, storageGroup, "csinodes")),
		"ephemeral-volume-controller": rules(
			on(readers, "", "pods"), on(verbs("update"), "", "pods/finalizers"),
			on(verbs("get", "list", "watch", "create"), "", "persistentvolumeclaims"), events()),
		"expand-controller": rules(
			on(verbs("get", "list", "watch", "update", "patch"), "", "persistentvolumes"), on(patchers, "", "persistentvolumeclaims/status"),
			on(readers, "", "persistentvolumeclaims"), events()),
		"persistent-volume-binder": rules(
			on(verbs("get", "list", "watch", "update", "create", "delete"), "", "persistentvolumes"), on(verbs("update"), "", "persistentvolumes/status"),
			on(verbs("get", "list", "watch", "update"), "", "persistentvolumeclaims"), on(verbs("update"), "", "persistentvolumeclaims/status"),
			on(verbs("list", "watch", "get", "create", "delete"), "", "pods"), on(readers, storageGroup, "storageclasses"),
			on(watchers, "", "nodes"), events(), on(verbs("watch"), "", "events")),
		"pv-protection-controller": rules(on(verbs("get", "list", "watch", "update"), "", "persistentvolumes"), events()),
		"pvc-protection-controller": rules(
			on(verbs("get", "list", "watch", "update"), "", "persistentvolumeclaims"), on(verbs("update"), "", "persistentvolumeclaims/status"),
			on(readers, "", "pods"), events()),
		"selinux-warning-controller": rules(
			events(), on(readers, "", "persistentvolumes"), on(readers, "", "persistentvolumeclaims"), on(readers, "", "pods"), on(readers, storageGroup, "csidrivers")),
		"volumeattributesclass-protection-controller": rules(
			on(readers, "", "persistentvolumeclaims"), on(readers, "", "persistentvolumes"),
			on(verbs("get", "list", "watch", "update"), storageGroup, "volumeattributesclasses"), events()),
	}
}

func clusterControllers() map[string][]rbacv1.PolicyRule {
	sliceKeepers := verbs("get", "list", "watch", "create", "update", "delete")
	return map[string][]rbacv1.PolicyRule{
		"certificate-controller": rules(
			on(verbs("get", "list", "watch", "delete"), certificates, "certificatesigningrequests"),
			on(verbs("update"), certificates, "certificatesigningrequests/status", "certificatesigningrequests/approval"),
			only(on(verbs("approve"), certificates, "signers"), "kubernetes.io/kube-apiserver-client-kubelet"),
			only(on(verbs("sign"), certificates, "signers"), "kubernetes.io/legacy-unknown", "kubernetes.io/kubelet-serving",
				"kubernetes.io/kube-apiserver-client", "kubernetes.io/kube-apiserver-client-kubelet"),
			on(verbs("create"), authorization, "subjectaccessreviews"), events()),
		"clusterrole-aggregation-controller": rules(
			on(verbs("escalate", "get", "list", "watch", "update", "patch"), "rbac.authorization.k8s.io", "clusterroles")),
		"device-taint-eviction-controller": rules(
			on(verbs("get", "list", "watch", "delete"), "", "pods"), on(patchers, "", "pods/status"), on(readers, resourceGroup, "resourceclaims"),
			on(readers, resourceGroup, "resourceslices"), on(readers, resourceGroup, "deviceclasses"), events()),
		"endpoint-controller": rules(
			on(readers, "", "services", "pods"), on(sliceKeepers, "", "endpoints"), on(verbs("create"), "", "endpoints/restricted"), events()),
		"endpointslice-controller": rules(
			on(readers, "", "services", "pods", "nodes"), on(verbs("update"), "", "services/finalizers"), on(sliceKeepers, discovery, "endpointslices"), events()),
		"endpointslicemirroring-controller": rules(
			on(readers, "", "services", "endpoints"), on(verbs("update"), "", "services/finalizers"), on(verbs("update"), "", "endpoints/finalizers"),
			on(sliceKeepers, discovery, "endpointslices"), events()),
		"generic-garbage-collector": rules(on(verbs("get", "list", "watch", "patch", "update", "delete"), "*", "*"), events()),
		"legacy-service-account-token-cleaner": rules(
			only(on(verbs("get"), "", "configmaps"), "kube-apiserver-legacy-service-account-token-tracking"), on(verbs("patch", "delete"), "", "secrets")),
		"namespace-controller": rules(
			on(verbs("get", "list", "watch", "delete"), "", "namespaces"), on(verbs("update"), "", "namespaces/finalize", "namespaces/status"),
			on(verbs("get", "list", "watch", "delete", "deletecollection"), "*", "*")),
		"node-controller": rules(
			on(verbs("get", "list", "watch", "update", "delete", "patch"), "", "nodes"), on(patchers, "", "nodes/status"), on(patchers, "", "pods/status"),
			on(verbs("get", "list", "watch", "delete"), "", "pods"), events()),
		"resource-claim-controller": rules(
			on(readers, "", "pods"), on(verbs("update"), "", "pods/finalizers"), on(verbs("get", "list", "watch", "create", "delete"), resourceGroup, "resourceclaims"),
			on(patchers, resourceGroup, "resourceclaims", "resourceclaims/status"), on(patchers, "", "pods/status"), events(),
			on(patchers, resourceGroup, "resourceclaims/binding")),
		"resourcequota-controller":   rules(on(watchers, "*", "*"), on(verbs("update"), "", "resourcequotas/status"), events()),
		"root-ca-cert-publisher":     rules(on(verbs("create", "update"), "", "configmaps"), events()),
		"route-controller":           rules(on(watchers, "", "nodes"), on(verbs("patch"), "", "nodes/status"), events()),
		"service-account-controller": rules(on(verbs("create"), "", "serviceaccounts"), events()),
		"service-cidrs-controller": rules(
			on(verbs("get", "list", "watch", "patch", "update"), networking, "servicecidrs"), on(patchers, networking, "servicecidrs/finalizers"),
			on(patchers, networking, "servicecidrs/status"), on(readers, networking, "ipaddresses"), events()),
		"service-controller": rules(
			on(readers, "", "services"), on(patchers, "", "services/status"), on(watchers, "", "nodes"), events()),
		"ttl-controller": rules(on(verbs("update", "patch", "list", "watch"), "", "nodes"), events()),
		"validatingadmissionpolicy-status-controller": rules(
			on(readers, "admissionregistration.k8s.io", "validatingadmissionpolicies"),
			on(verbs("get", "patch", "update"), "admissionregistration.k8s.io", "validatingadmissionpolicies/status"), events()),
	}
}
