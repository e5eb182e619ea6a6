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
	roles               map[string]*rbacv1.Role // by namespace/name
	roleBindings        []*rbacv1.RoleBinding
}

// ClusterRole implements Roles.
func (t *Table) ClusterRole(name string) (*rbacv1.ClusterRole, bool) {
	role, ok := t.clusterRoles[name]
	return role, ok
}

// ClusterRoleBindings implements Roles.
func (t *Table) ClusterRoleBindings() []*rbacv1.ClusterRoleBinding { return t.clusterRoleBindings }

// ClusterRoles are all roles of the table, by name.
func (t *Table) ClusterRoles() []*rbacv1.ClusterRole { return sorted(t.clusterRoles) }

// Role implements Roles.
func (t *Table) Role(namespace, name string) (*rbacv1.Role, bool) {
	role, ok := t.roles[namespace+"/"+name]
	return role, ok
}

// RoleBindings implements Roles.
func (t *Table) RoleBindings(namespace string) []*rbacv1.RoleBinding {
	var out []*rbacv1.RoleBinding
	for _, b := range t.roleBindings {
		if b.Namespace == namespace {
			out = append(out, b)
		}
	}
	return out
}

// Namespaced are all roles and bindings of the table that are in a namespace.
func (t *Table) Namespaced() ([]*rbacv1.Role, []*rbacv1.RoleBinding) {
	return sorted(t.roles), t.roleBindings
}

func sorted[T any](m map[string]T) []T {
	var out []T
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[name])
	}
	return out
}

// Defaults returns the roles that every cluster has: upstream's, to the letter, and
// a few of this project's own. Components of this project that are one user where
// upstream has many (each controller has an account of its own there) have their
// own roles beside upstream's, named kontiki:….
func Defaults() *Table {
	t := &Table{clusterRoles: map[string]*rbacv1.ClusterRole{}, roles: map[string]*rbacv1.Role{}}
	t.everybody()
	t.people()
	t.components()
	t.addOns()
	t.controllers()
	t.namespaced()
	t.ours()
	return t
}

// role adds a cluster role.
func (t *Table) role(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: defaultMeta(name), Rules: rules}
	t.clusterRoles[name] = r
	return r
}

// bind gives a cluster role to subjects, in a binding of the role's name.
func (t *Table) bind(role string, subjects ...rbacv1.Subject) { t.bindAs(role, role, subjects...) }

func (t *Table) bindAs(name, role string, subjects ...rbacv1.Subject) {
	t.clusterRoleBindings = append(t.clusterRoleBindings, &rbacv1.ClusterRoleBinding{
		ObjectMeta: defaultMeta(name),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   subjects,
	})
}

// give adds a role of a namespace, and gives it to subjects in a binding.
func (t *Table) give(namespace, name, binding string, rules []rbacv1.PolicyRule, subjects ...rbacv1.Subject) {
	role := &rbacv1.Role{ObjectMeta: defaultMeta(name), Rules: rules}
	role.Namespace = namespace
	t.roles[namespace+"/"+name] = role
	b := &rbacv1.RoleBinding{
		ObjectMeta: defaultMeta(binding),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects:   subjects,
	}
	b.Namespace = namespace
	t.roleBindings = append(t.roleBindings, b)
}

func defaultMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:        name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

var (
	readers  = []string{"get", "list", "watch"}
	watchers = []string{"list", "watch"}
	patchers = []string{"update", "patch"}
	all      = []string{"*"}
)

// on is a rule, its parts in upstream's order.
func on(verbs []string, group string, resources ...string) rbacv1.PolicyRule {
	return onAny(verbs, []string{group}, resources...)
}

func onAny(verbs, groups []string, resources ...string) rbacv1.PolicyRule {
	inOrder := func(s []string) []string { return slices.Sorted(slices.Values(s)) }
	return rbacv1.PolicyRule{Verbs: inOrder(verbs), APIGroups: inOrder(groups), Resources: inOrder(resources)}
}

// only narrows a rule to objects of some names.
func only(rule rbacv1.PolicyRule, names ...string) rbacv1.PolicyRule {
	rule.ResourceNames = slices.Sorted(slices.Values(names))
	return rule
}

func paths(urls ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: slices.Sorted(slices.Values(urls))}
}

func verbs(v ...string) []string { return v }

func rules(r ...rbacv1.PolicyRule) []rbacv1.PolicyRule { return r }

// events lets a component tell what happens.
func events() rbacv1.PolicyRule {
	return onAny(verbs("create", "update", "patch"), []string{"", "events.k8s.io"}, "events")
}

func groupSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name}
}

func userSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}
}

func accountSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: name}
}

// everybody: what whoever is known, or nobody, may do.
func (t *Table) everybody() {
	t.role("cluster-admin", on(all, "*", "*"), rbacv1.PolicyRule{Verbs: all, NonResourceURLs: all})
	t.bind("cluster-admin", groupSubject(user.SystemPrivilegedGroup))
	t.role("system:discovery", paths("/livez", "/readyz", "/healthz", "/version", "/version/",
		"/openapi", "/openapi/*", "/api", "/api/*", "/apis", "/apis/*"))
	t.bind("system:discovery", groupSubject(user.AllAuthenticated))
	t.role("system:public-info-viewer", paths("/livez", "/readyz", "/healthz", "/version", "/version/"))
	t.bind("system:public-info-viewer", groupSubject(user.AllAuthenticated), groupSubject(user.AllUnauthenticated))
	t.role("system:basic-user",
		on(verbs("create"), "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
		on(verbs("create"), "authentication.k8s.io", "selfsubjectreviews"))
	t.bind("system:basic-user", groupSubject(user.AllAuthenticated))
	t.role("system:service-account-issuer-discovery", paths("/.well-known/openid-configuration", "/openid/v1/jwks"))
	t.bind("system:service-account-issuer-discovery", groupSubject("system:serviceaccounts"))
	t.role("system:cluster-trust-bundle-discovery", on(readers, "certificates.k8s.io", "clustertrustbundles"))
	t.bind("system:cluster-trust-bundle-discovery", groupSubject("system:serviceaccounts"))
}
