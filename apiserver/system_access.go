package apiserver

import (
	"context"
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/auth/rbac/validation"

	"kontiki/apiserver/authz"
	"kontiki/apiserver/scheduling"
)

// roles puts back default roles and bindings that are missing, and what is
// missing in them, unless an administrator has switched that off by annotation.
// More than the default is left as it is, and so are the rules of aggregated roles:
// a controller writes them.
func (s *System) roles(ctx context.Context) error {
	defaults, rbac := authz.Defaults(), s.Client.RbacV1()
	clusterRoles, err := rbac.ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	stored := byName(clusterRoles.Items)
	for _, want := range defaults.ClusterRoles() {
		got := stored[want.Name]
		out := got.DeepCopy()
		if got != nil {
			out.Rules, out.AggregationRule = withRules(got.Rules, want.Rules), withSelectors(got.AggregationRule, want.AggregationRule)
			if want.AggregationRule != nil {
				out.Rules = got.Rules
			}
		}
		if _, err := reconcile(ctx, rbac.ClusterRoles(), got, out, want); err != nil {
			return err
		}
	}
	bindings, err := rbac.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	bound := byName(bindings.Items)
	for _, want := range defaults.ClusterRoleBindings() {
		got := bound[want.Name]
		if got != nil && got.RoleRef != want.RoleRef && autoUpdated(got) { // no update can change that
			if err := replace(ctx, rbac.ClusterRoleBindings(), got); err != nil {
				return err
			}
			got = nil
		}
		out := got.DeepCopy()
		if got != nil {
			out.Subjects = withSubjects(got.Subjects, want.Subjects)
		}
		if _, err := reconcile(ctx, rbac.ClusterRoleBindings(), got, out, want); err != nil {
			return err
		}
	}
	for _, namespace := range []string{metav1.NamespaceSystem, metav1.NamespacePublic} {
		if err := s.rolesIn(ctx, namespace, defaults); err != nil {
			return err
		}
	}
	return nil
}

// rolesIn is roles for one namespace.
func (s *System) rolesIn(ctx context.Context, namespace string, defaults *authz.Table) error {
	wantRoles, wantBindings := defaults.Namespaced()
	roles := s.Client.RbacV1().Roles(namespace)
	list, err := roles.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	stored := byName(list.Items)
	for _, want := range wantRoles {
		if want.Namespace != namespace {
			continue
		}
		got := stored[want.Name]
		out := got.DeepCopy()
		if got != nil {
			out.Rules = withRules(got.Rules, want.Rules)
		}
		if _, err := reconcile(ctx, roles, got, out, want); err != nil {
			return err
		}
	}
	bindings := s.Client.RbacV1().RoleBindings(namespace)
	bound, err := bindings.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	have := byName(bound.Items)
	for _, want := range wantBindings {
		if want.Namespace != namespace {
			continue
		}
		got := have[want.Name]
		if got != nil && got.RoleRef != want.RoleRef && autoUpdated(got) {
			if err := replace(ctx, bindings, got); err != nil {
				return err
			}
			got = nil
		}
		out := got.DeepCopy()
		if got != nil {
			out.Subjects = withSubjects(got.Subjects, want.Subjects)
		}
		if _, err := reconcile(ctx, bindings, got, out, want); err != nil {
			return err
		}
	}
	return nil
}

// writer is what reconcile needs of a typed client.
type writer[T any] interface {
	Create(ctx context.Context, obj T, options metav1.CreateOptions) (T, error)
	Update(ctx context.Context, obj T, options metav1.UpdateOptions) (T, error)
	Get(ctx context.Context, name string, options metav1.GetOptions) (T, error)
}

// reconcile creates want if nothing is stored, else writes out, which is got with
// what was missing in it, unless got must be left alone.
func reconcile[P any, T interface {
	*P
	metav1.Object
}](ctx context.Context, client writer[T], got, out, want T) (T, error) {
	if got == nil {
		created, err := client.Create(ctx, want, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return client.Get(ctx, want.GetName(), metav1.GetOptions{})
		}
		return created, err
	}
	if !autoUpdated(got) {
		return got, nil
	}
	out.SetLabels(withKeys(got.GetLabels(), want.GetLabels()))
	out.SetAnnotations(withKeys(got.GetAnnotations(), want.GetAnnotations()))
	if apiequality.Semantic.DeepEqual(got, out) {
		return got, nil
	}
	return client.Update(ctx, out, metav1.UpdateOptions{})
}

func autoUpdated(obj metav1.Object) bool {
	return obj.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] != "false"
}

// replace makes room for a binding that refers to the right role.
func replace(ctx context.Context, client interface {
	Delete(ctx context.Context, name string, options metav1.DeleteOptions) error
}, got metav1.Object) error {
	err := client.Delete(ctx, got.GetName(), metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(got.GetUID()))})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func byName[P any, T interface {
	*P
	metav1.Object
}](items []P) map[string]T {
	out := map[string]T{}
	for i := range items {
		obj := T(&items[i])
		out[obj.GetName()] = obj
	}
	return out
}

// withKeys adds what is missing; what is there stays.
func withKeys(got, want map[string]string) map[string]string {
	out := maps.Clone(got)
	for k, v := range want {
		if _, ok := out[k]; ok {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[k] = v
	}
	return out
}

func withRules(got, want []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	_, missing := validation.Covers(got, want)
	return append(slices.Clone(got), missing...)
}

func withSelectors(got, want *rbacv1.AggregationRule) *rbacv1.AggregationRule {
	if want == nil {
		return got
	}
	if got == nil {
		return want
	}
	out := got.DeepCopy()
	for _, selector := range want.ClusterRoleSelectors {
		if !slices.ContainsFunc(out.ClusterRoleSelectors, func(s metav1.LabelSelector) bool { return apiequality.Semantic.DeepEqual(s, selector) }) {
			out.ClusterRoleSelectors = append(out.ClusterRoleSelectors, selector)
		}
	}
	return out
}

func withSubjects(got, want []rbacv1.Subject) []rbacv1.Subject {
	out := slices.Clone(got)
	for _, s := range want {
		if !slices.Contains(got, s) {
			out = append(out, s)
		}
	}
	return out
}

// priorities keeps the classes of pods that the cluster itself needs.
func (s *System) priorities(ctx context.Context) error {
	client := s.Client.SchedulingV1().PriorityClasses()
	for _, want := range scheduling.SystemClasses() {
		_, err := client.Get(ctx, want.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = client.Create(ctx, want, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}
