package apiserver

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"kontiki/raftstore/raftstoretest"
)

func canI(t *testing.T, c kubernetes.Interface, verb, group, resource, namespace string) bool {
	t.Helper()
	r, err := c.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: verb, Group: group, Resource: resource, Namespace: namespace,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Allowed
}

// TestRolesOfTheCluster gives jane the role edit in a namespace and sees what
// she may do, ask, and give to others.
func TestRolesOfTheCluster(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	ctx := t.Context()
	system := &System{
		Client: clientOf(t, s, Self()), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
		Endpoints: func() []netip.AddrPort { return nil }, Logger: slog.New(slog.DiscardHandler),
	}
	if err := system.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	root := clientOf(t, s, admin)
	jane := clientOf(t, s, &user.DefaultInfo{Name: "jane", Groups: []string{"people"}})
	if canI(t, jane, "create", "apps", "deployments", "default") {
		t.Fatal("jane may do what nobody allowed")
	}
	bind := func(c kubernetes.Interface, name, role string, who string) error {
		_, err := c.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{Kind: "User", Name: who}},
		}, metav1.CreateOptions{})
		return err
	}
	if err := bind(root, "jane-edits", "edit", "jane"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "jane may create deployments", func(context.Context) (bool, error) {
		return canI(t, jane, "create", "apps", "deployments", "default"), nil
	})
	if !canI(t, jane, "list", "", "pods", "default") {
		t.Error("who may edit may not view")
	}
	for _, c := range []struct{ verb, group, resource, namespace string }{
		{"create", "apps", "deployments", "kube-system"}, {"list", "", "pods", ""}, {"create", rbacv1.GroupName, "rolebindings", "default"},
	} {
		if canI(t, jane, c.verb, c.group, c.resource, c.namespace) {
			t.Errorf("jane may %v", c)
		}
	}
	if err := bind(jane, "mine", "view", "joe"); !apierrors.IsForbidden(err) {
		t.Errorf("jane binds: %v", err)
	}
	if err := bind(root, "jane-administers", "admin", "jane"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "jane may bind", func(context.Context) (bool, error) {
		return canI(t, jane, "create", rbacv1.GroupName, "rolebindings", "default"), nil
	})
	if err := bind(jane, "joe-views", "view", "joe"); err != nil {
		t.Errorf("an admin gives away what she has: %v", err)
	}
	err := bind(jane, "joe-rules", "cluster-admin", "joe")
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "is attempting to grant RBAC permissions not currently held:\n"+`{APIGroups:["*"], Resources:["*"], Verbs:["*"]}`) {
		t.Errorf("an admin of a namespace gives away the cluster: %v", err)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "nodes"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"delete"}, APIGroups: []string{""}, Resources: []string{"nodes"}}}}
	if _, err := jane.RbacV1().Roles("default").Create(ctx, role, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("jane makes a role of what she may not: %v", err)
	}

	review, err := root.AuthorizationV1().LocalSubjectAccessReviews("default").Create(ctx, &authorizationv1.LocalSubjectAccessReview{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default"},
		Spec: authorizationv1.SubjectAccessReviewSpec{User: "joe", ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: "default", Verb: "delete", Resource: "pods",
		}},
	}, metav1.CreateOptions{})
	if err != nil || review.Status.Allowed {
		t.Errorf("%v %v", review, err)
	}
	rules, err := jane.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"},
	}, metav1.CreateOptions{})
	if err != nil || len(rules.Status.ResourceRules) < 5 {
		t.Errorf("%v %v", rules, err)
	}
	me, err := jane.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || me.Status.UserInfo.Username != "jane" {
		t.Errorf("%v %v", me, err)
	}
	// A binding keeps its role for life.
	b, err := root.RbacV1().RoleBindings("default").Get(ctx, "joe-views", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b.RoleRef.Name = "edit"
	if _, err := root.RbacV1().RoleBindings("default").Update(ctx, b, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("roleRef changed: %v", err)
	}
}
