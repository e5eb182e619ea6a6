package authz

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

var (
	writers = []string{"create", "delete", "deletecollection", "patch", "update"}
	owners  = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
)

// aggregateTo labels roles whose rules become a part of admin, edit or view.
func aggregateTo(name string) string { return "rbac.authorization.k8s.io/aggregate-to-" + name }

// userRoles are the roles that owners of namespaces give to people. Each takes
// its rules from all roles with its label, so that new kinds can add theirs.
func userRoles() []*rbacv1.ClusterRole {
	var out []*rbacv1.ClusterRole
	for _, name := range []string{"admin", "edit", "view"} {
		role := &rbacv1.ClusterRole{ObjectMeta: defaultMeta(name), AggregationRule: &rbacv1.AggregationRule{
			ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{aggregateTo(name): "true"}}},
		}}
		// What may be read may be edited, and what may be edited an admin may.
		switch name {
		case "edit":
			role.Labels[aggregateTo("admin")] = "true"
		case "view":
			role.Labels[aggregateTo("edit")] = "true"
		}
		out = append(out, role)
		rules := map[string][]rbacv1.PolicyRule{"admin": adminRules(), "edit": editRules(), "view": viewRules()}[name]
		part := &rbacv1.ClusterRole{ObjectMeta: defaultMeta("system:aggregate-to-" + name), Rules: rules}
		part.Labels[aggregateTo(name)] = "true"
		out = append(out, part)
	}
	return out
}

func adminRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		on(verbs("create"), "authorization.k8s.io", "localsubjectaccessreviews"),
		on(owners, "rbac.authorization.k8s.io", "roles", "rolebindings"),
	}
}

func editRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		on(readers, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
		on(verbs("impersonate"), "", "serviceaccounts"),
		on(writers, "", "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"),
		on(verbs("create"), "", "pods/eviction"),
		on(writers, "", "configmaps", "events", "persistentvolumeclaims", "replicationcontrollers",
			"replicationcontrollers/scale", "secrets", "serviceaccounts", "services", "services/proxy"),
		on(verbs("create"), "", "serviceaccounts/token"),
		on(writers, "apps", "daemonsets", "deployments", "deployments/rollback", "deployments/scale",
			"replicasets", "replicasets/scale", "statefulsets", "statefulsets/scale"),
		on(writers, "autoscaling", "horizontalpodautoscalers"),
		on(writers, "batch", "cronjobs", "jobs"),
		on(writers, "policy", "poddisruptionbudgets"),
		on(writers, "networking.k8s.io", "ingresses", "networkpolicies"),
		on(owners, "coordination.k8s.io", "leases"),
	}
}

func viewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		on(readers, "", "configmaps", "endpoints", "persistentvolumeclaims", "persistentvolumeclaims/status", "pods",
			"replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services", "services/status"),
		on(readers, "", "bindings", "events", "limitranges", "namespaces/status", "pods/log", "pods/status",
			"replicationcontrollers/status", "resourcequotas", "resourcequotas/status"),
		on(readers, "", "namespaces"),
		on(readers, "discovery.k8s.io", "endpointslices"),
		on(readers, "apps", "controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale",
			"deployments/status", "replicasets", "replicasets/scale", "replicasets/status", "statefulsets", "statefulsets/scale", "statefulsets/status"),
		on(readers, "autoscaling", "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
		on(readers, "batch", "cronjobs", "cronjobs/status", "jobs", "jobs/status"),
		on(readers, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"),
		on(readers, "networking.k8s.io", "ingresses", "ingresses/status", "networkpolicies"),
	}
}

// helperRoles are what add-ons are bound to.
func helperRoles() []*rbacv1.ClusterRole {
	make := func(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: defaultMeta(name), Rules: rules}
	}
	return []*rbacv1.ClusterRole{
		make("system:monitoring", paths("/metrics", "/metrics/slis", "/livez", "/readyz", "/healthz", "/livez/*", "/readyz/*", "/healthz/*")),
		make("system:auth-delegator",
			on(verbs("create"), "authentication.k8s.io", "tokenreviews"),
			on(verbs("create"), "authorization.k8s.io", "subjectaccessreviews")),
		make("system:kubelet-api-admin",
			on(readers, "", "nodes"), on(verbs("proxy"), "", "nodes"),
			on(all, "", "nodes/proxy", "nodes/metrics", "nodes/stats", "nodes/log", "nodes/spec", "nodes/configz", "nodes/healthz", "nodes/pods")),
		make("system:service-account-issuer-discovery", paths("/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/")),
		make("system:persistent-volume-provisioner",
			on(verbs("create", "delete", "get", "list", "watch"), "", "persistentvolumes"),
			on(verbs("get", "list", "update", "watch"), "", "persistentvolumeclaims"),
			on(readers, "storage.k8s.io", "storageclasses"),
			on(readers, "", "events"), on(verbs("create", "patch", "update"), "", "events")),
		make("system:kube-dns", on(verbs("list", "watch"), "", "endpoints", "services"), on(verbs("list", "watch"), "discovery.k8s.io", "endpointslices")),
	}
}

// SystemRoles returns the roles of kube-system, and who has them.
func SystemRoles() ([]*rbacv1.Role, []*rbacv1.RoleBinding) {
	meta := defaultMeta("extension-apiserver-authentication-reader")
	meta.Namespace = metav1.NamespaceSystem
	rule := on(readers, "", "configmaps")
	rule.ResourceNames = []string{"extension-apiserver-authentication"}
	return []*rbacv1.Role{{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{rule}}},
		[]*rbacv1.RoleBinding{{
			ObjectMeta: func() metav1.ObjectMeta {
				m := defaultMeta("system::extension-apiserver-authentication-reader")
				m.Namespace = metav1.NamespaceSystem
				return m
			}(),
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
			Subjects: []rbacv1.Subject{userSubject(user.KubeControllerManager), userSubject(user.KubeScheduler)},
		}}
}
