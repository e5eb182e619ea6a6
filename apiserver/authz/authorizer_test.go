package authz

import (
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// inNamespace adds to the defaults what a namespace's owner has bound.
type inNamespace struct{ *Table }

func (inNamespace) Role(namespace, name string) (*rbacv1.Role, bool) {
	if namespace != "team" || name != "reader" {
		return nil, false
	}
	return &rbacv1.Role{Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods", "*/scale"}, ResourceNames: nil},
		{Verbs: []string{"update"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"mine"}},
	}}, true
}

func (inNamespace) RoleBindings(namespace string) []*rbacv1.RoleBinding {
	b := &rbacv1.RoleBinding{
		RoleRef:  rbacv1.RoleRef{Kind: "Role", Name: "reader"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "robot", Namespace: "team"}, {Kind: "User", Name: "jane"}},
	}
	b.Namespace = namespace
	return []*rbacv1.RoleBinding{b}
}

func TestRules(t *testing.T) {
	a := New(inNamespace{Defaults()})
	jane := &user.DefaultInfo{Name: "jane", Groups: []string{user.AllAuthenticated}}
	robot := &user.DefaultInfo{Name: "system:serviceaccount:team:robot"}
	for _, c := range []struct {
		who  user.Info
		what authorizer.AttributesRecord
		want bool
	}{
		{jane, authorizer.AttributesRecord{Verb: "get", Namespace: "team", Resource: "pods", ResourceRequest: true}, true},
		{robot, authorizer.AttributesRecord{Verb: "get", Namespace: "team", Resource: "pods", ResourceRequest: true}, true},
		{jane, authorizer.AttributesRecord{Verb: "get", Namespace: "team", Resource: "pods", Subresource: "log", ResourceRequest: true}, false},
		{jane, authorizer.AttributesRecord{Verb: "get", Namespace: "team", Resource: "things", Subresource: "scale", ResourceRequest: true}, true},
		{jane, authorizer.AttributesRecord{Verb: "get", Namespace: "other", Resource: "pods", ResourceRequest: true}, false},
		{jane, authorizer.AttributesRecord{Verb: "get", Resource: "pods", ResourceRequest: true}, false},
		{jane, authorizer.AttributesRecord{Verb: "delete", Namespace: "team", Resource: "pods", ResourceRequest: true}, false},
		{jane, authorizer.AttributesRecord{Verb: "update", Namespace: "team", Resource: "configmaps", Name: "mine", ResourceRequest: true}, true},
		{jane, authorizer.AttributesRecord{Verb: "update", Namespace: "team", Resource: "configmaps", Name: "yours", ResourceRequest: true}, false},
		{jane, authorizer.AttributesRecord{Verb: "get", Path: "/apis/apps/v1"}, true},
		{jane, authorizer.AttributesRecord{Verb: "get", Path: "/metrics"}, false},
		{&user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}, authorizer.AttributesRecord{Verb: "get", Path: "/apis"}, false},
		{&user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}, authorizer.AttributesRecord{Verb: "get", Path: "/readyz"}, true},
		{&user.DefaultInfo{Name: "x", Groups: []string{user.SystemPrivilegedGroup}}, authorizer.AttributesRecord{Verb: "delete", Path: "/anything"}, true},
	} {
		c.what.User = c.who
		decision, reason, err := a.Authorize(t.Context(), c.what)
		if got := decision == authorizer.DecisionAllow; got != c.want {
			t.Errorf("%s: %s %s%s/%s in %q is allowed: %v (%s %v)", c.who.GetName(), c.what.Verb, c.what.Path, c.what.Resource, c.what.Subresource, c.what.Namespace, got, reason, err)
		}
	}
}

func TestMissingRolesAreNamed(t *testing.T) {
	table := &Table{}
	who := &user.DefaultInfo{Name: "jane"}
	table.bindAs("jane", "gone", userSubject("jane"))
	_, reason, err := New(table).Authorize(t.Context(), authorizer.AttributesRecord{User: who, Verb: "get", Resource: "pods", ResourceRequest: true})
	if want := `RBAC: [clusterrole.rbac.authorization.k8s.io "gone" not found]`; reason != want || err != nil {
		t.Errorf("%q %v, want %q", reason, err, want)
	}
}

// TestAggregatedRolesOfAggregatedRoles wants rules from as far down as they come.
func TestAggregatedRolesOfAggregatedRoles(t *testing.T) {
	table := Defaults()
	admin, _ := table.ClusterRole("admin")
	has := func(rules []rbacv1.PolicyRule, part string) bool {
		role, _ := table.ClusterRole(part)
		for _, want := range role.Rules {
			if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return r.String() == want.String() }) {
				return false
			}
		}
		return true
	}
	rules := Aggregate(admin, table.ClusterRoles())
	for _, part := range []string{"system:aggregate-to-admin", "system:aggregate-to-edit", "system:aggregate-to-view"} {
		if !has(rules, part) {
			t.Errorf("admin lacks rules of %s", part)
		}
	}
	view, _ := table.ClusterRole("view")
	view.Labels[aggregateTo("view")] = "true" // selects itself
	if rules := Aggregate(view, table.ClusterRoles()); !has(rules, "system:aggregate-to-view") || has(rules, "system:aggregate-to-edit") {
		t.Errorf("view has %d rules", len(rules))
	}
}
