package apiserver

import (
	"context"
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
// More than the default is left as it is. Then it writes the rules of
// aggregated roles, for people to read: the authorizer works them out itself.
func (s *System) roles(ctx context.Context) error {
	list, err := s.Client.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	stored := map[string]*rbacv1.ClusterRole{}
	for i := range list.Items {
		stored[list.Items[i].Name] = &list.Items[i]
	}
	defaults := authz.Defaults()
	for _, want := range defaults.ClusterRoles() {
		role, err := s.clusterRole(ctx, stored[want.Name], want)
		if err != nil {
			return err
		}
		stored[want.Name] = role
	}
	for _, want := range defaults.ClusterRoleBindings() {
		if err := s.clusterRoleBinding(ctx, want); err != nil {
			return err
		}
	}
	if err := s.systemRoles(ctx); err != nil {
		return err
	}
	return s.aggregate(ctx, stored)
}

func autoUpdated(m metav1.ObjectMeta) bool {
	return m.Annotations[rbacv1.AutoUpdateAnnotationKey] != "false"
}

func (s *System) clusterRole(ctx context.Context, got, want *rbacv1.ClusterRole) (*rbacv1.ClusterRole, error) {
	client := s.Client.RbacV1().ClusterRoles()
	if got == nil {
		role, err := client.Create(ctx, want, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return client.Get(ctx, want.Name, metav1.GetOptions{})
		}
		return role, err
	}
	if !autoUpdated(got.ObjectMeta) {
		return got, nil
	}
	out := got.DeepCopy()
	if want.AggregationRule == nil {
		if ok, missing := validation.Covers(got.Rules, want.Rules); !ok {
			out.Rules = append(out.Rules, missing...)
		}
	} else if got.AggregationRule == nil {
		out.AggregationRule = want.AggregationRule
	}
	for k, v := range want.Labels {
		if out.Labels == nil {
			out.Labels = map[string]string{}
		}
		out.Labels[k] = v
	}
	if apiequality.Semantic.DeepEqual(got, out) {
		return got, nil
	}
	return client.Update(ctx, out, metav1.UpdateOptions{})
}

func (s *System) clusterRoleBinding(ctx context.Context, want *rbacv1.ClusterRoleBinding) error {
	client := s.Client.RbacV1().ClusterRoleBindings()
	got, err := client.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, want, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
	if err != nil || !autoUpdated(got.ObjectMeta) {
		return err
	}
	subjects := withSubjects(got.Subjects, want.Subjects)
	if len(subjects) == len(got.Subjects) {
		return nil
	}
	got.Subjects = subjects
	_, err = client.Update(ctx, got, metav1.UpdateOptions{})
	return err
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

func (s *System) systemRoles(ctx context.Context) error {
	roles, bindings := authz.SystemRoles()
	for _, want := range roles {
		client := s.Client.RbacV1().Roles(want.Namespace)
		_, err := client.Get(ctx, want.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = client.Create(ctx, want, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	for _, want := range bindings {
		client := s.Client.RbacV1().RoleBindings(want.Namespace)
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

func (s *System) aggregate(ctx context.Context, stored map[string]*rbacv1.ClusterRole) error {
	var all []*rbacv1.ClusterRole
	for _, r := range stored {
		all = append(all, r)
	}
	// What is aggregated may itself be selected: view is a part of edit, edit of
	// admin. Each round carries rules one step further.
	for range 3 {
		for i, r := range all {
			if r.AggregationRule == nil {
				continue
			}
			rules := authz.Aggregate(r, all)
			if apiequality.Semantic.DeepEqual(r.Rules, rules) {
				continue
			}
			out := r.DeepCopy()
			out.Rules = rules
			updated, err := s.Client.RbacV1().ClusterRoles().Update(ctx, out, metav1.UpdateOptions{})
			if err != nil {
				return err
			}
			all[i] = updated
		}
	}
	return nil
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
