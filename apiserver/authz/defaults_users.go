package authz

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	writers = []string{"create", "delete", "deletecollection", "patch", "update"}
	owners  = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
)

// aggregateTo labels roles whose rules become a part of admin, edit or view.
func aggregateTo(name string) string { return "rbac.authorization.k8s.io/aggregate-to-" + name }

// people: the roles that owners of namespaces give away. Each takes its rules from
// all roles with its label, so that new kinds can add theirs.
func (t *Table) people() {
	for _, name := range []string{"admin", "edit", "view"} {
		role := t.role(name)
		role.AggregationRule = &rbacv1.AggregationRule{
			ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{aggregateTo(name): "true"}}},
		}
		// What may be read may be edited, and what may be edited an admin may.
		switch name {
		case "edit":
			role.Labels[aggregateTo("admin")] = "true"
		case "view":
			role.Labels[aggregateTo("edit")] = "true"
		}
	}
	t.role("system:aggregate-to-admin", adminRules()...).Labels[aggregateTo("admin")] = "true"
	t.role("system:aggregate-to-edit", editRules()...).Labels[aggregateTo("edit")] = "true"
	t.role("system:aggregate-to-view", viewRules()...).Labels[aggregateTo("view")] = "true"
}

func adminRules() []rbacv1.PolicyRule {
	return rules(
		on(verbs("create"), "authorization.k8s.io", "localsubjectaccessreviews"),
		on(owners, "rbac.authorization.k8s.io", "roles", "rolebindings"),
	)
}

func editRules() []rbacv1.PolicyRule {
	return rules(
		on(readers, "", "pods/attach", "pods/proxy", "pods/exec", "pods/portforward", "secrets", "services/proxy"),
		on(verbs("impersonate"), "", "serviceaccounts"),
		on(writers, "", "pods", "pods/attach", "pods/proxy", "pods/exec", "pods/portforward"),
		on(verbs("create"), "", "pods/eviction"),
		on(writers, "", "replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts",
			"services", "services/proxy", "persistentvolumeclaims", "configmaps", "secrets", "events"),
		on(verbs("create"), "", "serviceaccounts/token"),
		on(writers, "apps", "statefulsets", "statefulsets/scale", "daemonsets", "deployments", "deployments/scale",
			"deployments/rollback", "replicasets", "replicasets/scale"),
		on(writers, "autoscaling", "horizontalpodautoscalers"),
		on(writers, "batch", "jobs", "cronjobs"),
		on(writers, "extensions", "daemonsets", "deployments", "deployments/scale", "deployments/rollback", "ingresses",
			"replicasets", "replicasets/scale", "replicationcontrollers/scale", "networkpolicies"),
		on(writers, "policy", "poddisruptionbudgets"),
		on(writers, "networking.k8s.io", "networkpolicies", "ingresses"),
		on(owners, "coordination.k8s.io", "leases"),
		on(writers, "resource.k8s.io", "resourceclaims", "resourceclaimtemplates"),
	)
}

func viewRules() []rbacv1.PolicyRule {
	return rules(
		on(readers, "", "pods", "replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts",
			"services", "services/status", "endpoints", "persistentvolumeclaims", "persistentvolumeclaims/status", "configmaps"),
		on(readers, "", "limitranges", "resourcequotas", "bindings", "events",
			"pods/status", "resourcequotas/status", "namespaces/status", "replicationcontrollers/status", "pods/log"),
		on(readers, "", "namespaces"),
		on(readers, "discovery.k8s.io", "endpointslices"),
		on(readers, "apps", "controllerrevisions", "statefulsets", "statefulsets/status", "statefulsets/scale",
			"daemonsets", "daemonsets/status", "deployments", "deployments/status", "deployments/scale",
			"replicasets", "replicasets/status", "replicasets/scale"),
		on(readers, "autoscaling", "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
		on(readers, "batch", "jobs", "cronjobs", "cronjobs/status", "jobs/status"),
		on(readers, "extensions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale", "deployments/status",
			"ingresses", "ingresses/status", "replicasets", "replicasets/scale", "replicasets/status",
			"replicationcontrollers/scale", "networkpolicies"),
		on(readers, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"),
		on(readers, "networking.k8s.io", "networkpolicies", "ingresses", "ingresses/status"),
		on(readers, "resource.k8s.io", "resourceclaims", "resourceclaimtemplates", "resourceclaims/status"),
	)
}
