package rbac

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/component-helpers/auth/rbac/validation"

	"kontiki/apiserver/kind"
)

// Rules tells what users hold and what roles give.
type Rules interface {
	// Held are the rules of u in a namespace; none is the whole cluster.
	Held(u user.Info, namespace string) []rbacv1.PolicyRule
	// Given are the rules of a role that a binding in namespace refers to.
	Given(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error)
}

// Guard keeps users from granting what they do not hold, unless they may
// escalate (for roles) or bind (for bindings).
type Guard struct {
	Rules      Rules
	Authorizer authorizer.Authorizer
}

func (g Guard) onRoles(resource string) func(kind.Storages) (kind.Storages, error) {
	return g.on(resource, func(ctx context.Context, obj, old runtime.Object) error {
		rules, before := rulesOf(obj), []rbacv1.PolicyRule(nil)
		if old != nil {
			before = rulesOf(old)
		}
		same := old != nil && apiequality.Semantic.DeepEqual(rules, before)
		if same && apiequality.Semantic.DeepEqual(aggregationOf(obj), aggregationOf(old)) {
			return nil
		}
		name := obj.(metav1.Object).GetName()
		if g.may(ctx, "escalate", resource, name) {
			return nil
		}
		if aggregationOf(obj) != nil {
			// Whoever selects roles takes what they will ever say.
			rules = append(slices.Clone(rules), rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
				rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}})
		}
		return g.covered(ctx, resource, name, rules)
	})
}

func (g Guard) onBindings(resource string) func(kind.Storages) (kind.Storages, error) {
	return g.on(resource, func(ctx context.Context, obj, old runtime.Object) error {
		ref, subjects := bindingOf(obj)
		if old != nil {
			if _, before := bindingOf(old); apiequality.Semantic.DeepEqual(subjects, before) {
				return nil
			}
		}
		name := obj.(metav1.Object).GetName()
		of := "clusterroles"
		if ref.Kind == "Role" {
			of = "roles"
		}
		if g.may(ctx, "bind", of, ref.Name) {
			return nil
		}
		namespace := request.NamespaceValue(ctx)
		rules, err := g.Rules.Given(ref, namespace)
		if err != nil {
			return apierrors.NewForbidden(rbacv1.Resource(resource), name, err)
		}
		return g.covered(ctx, resource, name, rules)
	})
}

func rulesOf(obj runtime.Object) []rbacv1.PolicyRule {
	if r, ok := obj.(*rbacv1.Role); ok {
		return r.Rules
	}
	return obj.(*rbacv1.ClusterRole).Rules
}

func aggregationOf(obj runtime.Object) *rbacv1.AggregationRule {
	if r, ok := obj.(*rbacv1.ClusterRole); ok {
		return r.AggregationRule
	}
	return nil
}

func bindingOf(obj runtime.Object) (rbacv1.RoleRef, []rbacv1.Subject) {
	if b, ok := obj.(*rbacv1.RoleBinding); ok {
		return b.RoleRef, b.Subjects
	}
	b := obj.(*rbacv1.ClusterRoleBinding)
	return b.RoleRef, b.Subjects
}

// may tells whether the one who asks has a verb that makes up for rules.
func (g Guard) may(ctx context.Context, verb, resource, name string) bool {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return false
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return true
	}
	decision, _, err := g.Authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: verb, Namespace: request.NamespaceValue(ctx), Name: name,
		APIGroup: rbacv1.GroupName, APIVersion: "*", Resource: resource, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}

func (g Guard) covered(ctx context.Context, resource, name string, rules []rbacv1.PolicyRule) error {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewForbidden(rbacv1.Resource(resource), name, errors.New("no user on context"))
	}
	ok, missing := validation.Covers(g.Rules.Held(u, request.NamespaceValue(ctx)), rules)
	if ok {
		return nil
	}
	lines := map[string]bool{}
	for _, r := range missing {
		lines[describe(r)] = true
	}
	var sorted []string
	for line := range lines {
		sorted = append(sorted, line)
	}
	slices.Sort(sorted)
	return apierrors.NewForbidden(rbacv1.Resource(resource), name, fmt.Errorf(
		"user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", u.GetName(), u.GetGroups(), strings.Join(sorted, "\n")))
}

func describe(r rbacv1.PolicyRule) string {
	var parts []string
	for _, p := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs},
		{"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs},
	} {
		if len(p.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", p.name, p.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// on puts check before every write of resource.
func (g Guard) on(resource string, check func(ctx context.Context, obj, old runtime.Object) error) func(kind.Storages) (kind.Storages, error) {
	return func(in kind.Storages) (kind.Storages, error) {
		in[resource] = &guarded{in[resource].(*kind.REST), check}
		return in, nil
	}
}

type guarded struct {
	*kind.REST
	check func(ctx context.Context, obj, old runtime.Object) error
}

// Create implements rest.Creater.
func (r *guarded) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	if err := r.check(ctx, obj, nil); err != nil {
		return nil, err
	}
	return r.REST.Create(ctx, obj, validate, options)
}

// Update implements rest.Updater.
func (r *guarded) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, forceCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	checked := rest.WrapUpdatedObjectInfo(info, func(ctx context.Context, obj, old runtime.Object) (runtime.Object, error) {
		// For an object that is not there yet, old is an empty one.
		if m, ok := old.(metav1.Object); ok && m.GetResourceVersion() == "" {
			old = nil
		}
		return obj, r.check(ctx, obj, old)
	})
	return r.REST.Update(ctx, name, checked, createValidation, updateValidation, forceCreate, options)
}
