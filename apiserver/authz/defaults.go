package authz

import (
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Table is a fixed set of roles and bindings.
type Table struct {
	clusterRoles        map[string]*rbacv1.ClusterRole
	clusterRoleBindings []*rbacv1.ClusterRoleBinding
}

// ClusterRole implements Roles.
func (t *Table) ClusterRole(name string) (*rbacv1.ClusterRole, bool) {
	role, ok := t.clusterRoles[name]
	return role, ok
}

// ClusterRoleBindings implements Roles.
func (t *Table) ClusterRoleBindings() []*rbacv1.ClusterRoleBinding { return t.clusterRoleBindings }

// ClusterRoles are all roles of the table, in no order.
func (t *Table) ClusterRoles() []*rbacv1.ClusterRole {
	return slices.Collect(maps.Values(t.clusterRoles))
}

// Role implements Roles.
func (t *Table) Role(string, string) (*rbacv1.Role, bool) { return nil, false }

// RoleBindings implements Roles.
func (t *Table) RoleBindings(string) []*rbacv1.RoleBinding { return nil }

var (
	readers = []string{"get", "list", "watch"}
	all     = []string{"*"}
)

func on(verbs []string, group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: resources}
}

func paths(urls ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: urls}
}

func verbs(v ...string) []string { return v }

// Defaults returns the roles that every cluster has, named and shaped as
// upstream's. Where the components of this project are one user where upstream
// has many (each controller has an account of its own there), the role is the
// union of upstream's.
func Defaults() *Table {
	t := &Table{clusterRoles: map[string]*rbacv1.ClusterRole{}}
	role := func(name string, rules ...rbacv1.PolicyRule) {
		t.clusterRoles[name] = &rbacv1.ClusterRole{ObjectMeta: defaultMeta(name), Rules: rules}
	}
	bind := func(role string, subjects ...rbacv1.Subject) {
		t.clusterRoleBindings = append(t.clusterRoleBindings, &rbacv1.ClusterRoleBinding{
			ObjectMeta: defaultMeta(role),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   subjects,
		})
	}

	role("cluster-admin", on(all, "*", "*"), rbacv1.PolicyRule{Verbs: all, NonResourceURLs: all})
	bind("cluster-admin", groupSubject(user.SystemPrivilegedGroup), userSubject(user.APIServerUser))
	role("system:discovery", paths("/livez", "/readyz", "/healthz", "/version", "/version/",
		"/openapi", "/openapi/*", "/api", "/api/*", "/apis", "/apis/*"))
	bind("system:discovery", groupSubject(user.AllAuthenticated))
	role("system:public-info-viewer", paths("/livez", "/readyz", "/healthz", "/version", "/version/"))
	bind("system:public-info-viewer", groupSubject(user.AllAuthenticated), groupSubject(user.AllUnauthenticated))
	role("system:basic-user",
		on(verbs("create"), "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
		on(verbs("create"), "authentication.k8s.io", "selfsubjectreviews"))
	bind("system:basic-user", groupSubject(user.AllAuthenticated))

	role("system:node", nodeRules()...)
	bind("system:node", groupSubject(user.NodesGroup))
	role("system:kube-scheduler", schedulerRules()...)
	bind("system:kube-scheduler", userSubject(user.KubeScheduler))
	role("system:kube-controller-manager", controllerRules()...)
	bind("system:kube-controller-manager", userSubject(user.KubeControllerManager))
	for _, r := range append(userRoles(), helperRoles()...) {
		t.clusterRoles[r.Name] = r
	}
	bind("system:monitoring", groupSubject("system:monitoring"))
	bind("system:service-account-issuer-discovery", groupSubject("system:serviceaccounts"))
	return t
}

func defaultMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:        name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func groupSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name}
}

func userSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}
}

func eventRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		on(verbs("create", "update", "patch"), "", "events"),
		on(verbs("create", "update", "patch"), "events.k8s.io", "events"),
	}
}

// nodeRules are system:node's and system:node-proxier's: the agent and the
// overlay of a node are one user. What of this a node sees is narrowed to its
// own by the Node authorizer.
func nodeRules() []rbacv1.PolicyRule {
	return append(eventRules(),
		on(verbs("create"), "authentication.k8s.io", "tokenreviews"),
		on(verbs("create"), "authorization.k8s.io", "subjectaccessreviews", "localsubjectaccessreviews"),
		on(verbs("get", "list", "watch"), "", "services"),
		on(verbs("create", "get", "list", "watch", "update", "patch"), "", "nodes"),
		on(verbs("update", "patch"), "", "nodes/status"),
		on(verbs("get", "list", "watch", "create", "delete"), "", "pods"),
		on(verbs("update", "patch"), "", "pods/status"),
		on(verbs("create"), "", "pods/eviction"),
		on(readers, "", "configmaps", "secrets", "namespaces", "endpoints"),
		on(readers, "", "persistentvolumeclaims", "persistentvolumes"),
		on(verbs("update", "patch"), "", "persistentvolumeclaims/status"),
		on(verbs("create"), "", "serviceaccounts/token"),
		on(verbs("get"), "", "serviceaccounts"),
		on(readers, "discovery.k8s.io", "endpointslices"),
		on(readers, "networking.k8s.io", "networkpolicies"),
		on(verbs("create", "get", "update", "patch", "delete"), "coordination.k8s.io", "leases"),
		on(verbs("create", "get", "list", "watch"), "certificates.k8s.io", "certificatesigningrequests"),
		on(readers, "storage.k8s.io", "csidrivers", "volumeattachments"),
		on(readers, "node.k8s.io", "runtimeclasses"),
	)
}

func schedulerRules() []rbacv1.PolicyRule {
	return append(eventRules(),
		on(verbs("create", "get", "list", "watch", "update"), "coordination.k8s.io", "leases"),
		on(readers, "", "nodes", "namespaces", "services", "replicationcontrollers", "persistentvolumes"),
		on(verbs("get", "list", "watch", "delete"), "", "pods"),
		on(verbs("create"), "", "bindings", "pods/binding"),
		on(verbs("patch", "update"), "", "pods/status"),
		on(readers, "apps", "replicasets", "statefulsets"),
		on(readers, "policy", "poddisruptionbudgets"),
		on(verbs("get", "list", "watch", "update"), "", "persistentvolumeclaims"),
		on(readers, "storage.k8s.io", "csinodes", "csidrivers", "csistoragecapacities", "storageclasses", "volumeattachments"),
		on(readers, "resource.k8s.io", "*"),
		on(verbs("create"), "authentication.k8s.io", "tokenreviews"),
		on(verbs("create"), "authorization.k8s.io", "subjectaccessreviews"),
	)
}

func controllerRules() []rbacv1.PolicyRule {
	return append(eventRules(),
		// The namespace controller and the garbage collector see and delete everything.
		on(verbs("get", "list", "watch", "delete", "deletecollection", "patch", "update"), "*", "*"),
		on(verbs("create"), "coordination.k8s.io", "leases"),
		on(verbs("create"), "", "pods", "endpoints", "configmaps", "secrets", "serviceaccounts",
			"serviceaccounts/token", "pods/eviction", "persistentvolumes", "persistentvolumeclaims", "namespaces", "services"),
		on(verbs("create"), "apps", "replicasets", "controllerrevisions"),
		on(verbs("create"), "batch", "jobs"),
		on(verbs("create"), "discovery.k8s.io", "endpointslices"),
		on(verbs("create"), "resource.k8s.io", "resourceclaims"),
		on(verbs("create"), "authentication.k8s.io", "tokenreviews"),
		on(verbs("create"), "authorization.k8s.io", "subjectaccessreviews"),
		on(verbs("approve", "sign"), "certificates.k8s.io", "signers"),
	)
}
