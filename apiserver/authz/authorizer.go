package authz

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Roles is where the rules come from.
type Roles interface {
	ClusterRole(name string) (*rbacv1.ClusterRole, bool)
	ClusterRoleBindings() []*rbacv1.ClusterRoleBinding
	Role(namespace, name string) (*rbacv1.Role, bool)
	RoleBindings(namespace string) []*rbacv1.RoleBinding
}

// Authorizer is upstream's RBAC authorizer, preceded by the group
// system:masters that may do everything.
type Authorizer struct{ roles Roles }

// New returns an authorizer over roles.
func New(roles Roles) *Authorizer { return &Authorizer{roles} }

// Authorize implements authorizer.Authorizer.
func (a *Authorizer) Authorize(_ context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	u := attrs.GetUser()
	if u == nil {
		return authorizer.DecisionNoOpinion, "no user on request.", nil
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return authorizer.DecisionAllow, "", nil
	}
	var reason string
	missing := a.visit(u, attrs.GetNamespace(), func(from *source, rule rbacv1.PolicyRule) bool {
		if Allows(rule, attrs) {
			reason = "RBAC: allowed by " + from.String()
			return false
		}
		return true
	})
	if reason != "" {
		return authorizer.DecisionAllow, reason, nil
	}
	if len(missing) > 0 {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("RBAC: [%s]", strings.Join(missing, ", ")), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer; RBAC has no conditions.
func (a *Authorizer) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, attrs))
}

// EvaluateConditions implements authorizer.Authorizer.
func (a *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor implements authorizer.RuleResolver, which `kubectl auth can-i --list` asks.
func (a *Authorizer) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	add := func(_ *source, rule rbacv1.PolicyRule) bool {
		if len(rule.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
		if len(rule.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
		return true
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		all := []string{"*"}
		add(nil, rbacv1.PolicyRule{Verbs: all, APIGroups: all, Resources: all})
		add(nil, rbacv1.PolicyRule{Verbs: all, NonResourceURLs: all})
	}
	missing := a.visit(u, namespace, add)
	var err error
	if len(missing) > 0 {
		err = fmt.Errorf("[%s]", strings.Join(missing, ", "))
	}
	return resources, paths, false, err
}

// visit calls f with every rule that applies to u in namespace until f returns
// false, and returns what bindings refer to in vain.
func (a *Authorizer) visit(u user.Info, namespace string, f func(from *source, rule rbacv1.PolicyRule) bool) (missing []string) {
	for _, b := range a.roles.ClusterRoleBindings() {
		subject, ok := matching(b.Subjects, u, "")
		if !ok {
			continue
		}
		role, ok := a.roles.ClusterRole(b.RoleRef.Name)
		if !ok {
			missing = append(missing, fmt.Sprintf("clusterrole.rbac.authorization.k8s.io %q not found", b.RoleRef.Name))
			continue
		}
		if !each(&source{binding: b.Name, roleKind: "ClusterRole", role: role.Name, subject: subject}, role.Rules, f) {
			return missing
		}
	}
	if namespace == "" {
		return missing
	}
	for _, b := range a.roles.RoleBindings(namespace) {
		subject, ok := matching(b.Subjects, u, namespace)
		if !ok {
			continue
		}
		rules, ok := a.rulesOf(b)
		if !ok {
			missing = append(missing, fmt.Sprintf("%s.rbac.authorization.k8s.io %q not found", strings.ToLower(b.RoleRef.Kind), b.RoleRef.Name))
			continue
		}
		if !each(&source{binding: b.Name, namespace: namespace, roleKind: b.RoleRef.Kind, role: b.RoleRef.Name, subject: subject}, rules, f) {
			return missing
		}
	}
	return missing
}

func (a *Authorizer) rulesOf(b *rbacv1.RoleBinding) ([]rbacv1.PolicyRule, bool) {
	if b.RoleRef.Kind == "ClusterRole" {
		if role, ok := a.roles.ClusterRole(b.RoleRef.Name); ok {
			return role.Rules, true
		}
		return nil, false
	}
	if role, ok := a.roles.Role(b.Namespace, b.RoleRef.Name); ok {
		return role.Rules, true
	}
	return nil, false
}

func each(from *source, rules []rbacv1.PolicyRule, f func(*source, rbacv1.PolicyRule) bool) bool {
	for _, rule := range rules {
		if !f(from, rule) {
			return false
		}
	}
	return true
}

// source is whom a rule comes from: a binding of a role to somebody. Most are looked at and
// not told of, so the words are made when they are asked for.
type source struct {
	binding, namespace string // no namespace: of the cluster
	roleKind, role     string
	subject            rbacv1.Subject
}

// String is upstream's way to say it.
func (s *source) String() string {
	to := fmt.Sprintf("%s %q", s.subject.Kind, s.subject.Name)
	if s.subject.Kind == rbacv1.ServiceAccountKind {
		to = fmt.Sprintf("ServiceAccount %q", s.subject.Name+"/"+cmp.Or(s.subject.Namespace, s.namespace))
	}
	if s.namespace == "" {
		return fmt.Sprintf("ClusterRoleBinding %q of %s %q to %s", s.binding, s.roleKind, s.role, to)
	}
	return fmt.Sprintf("RoleBinding \"%s/%s\" of %s %q to %s", s.binding, s.namespace, s.roleKind, s.role, to)
}

// matching returns the subject that is u.
func matching(subjects []rbacv1.Subject, u user.Info, namespace string) (rbacv1.Subject, bool) {
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			if s.Name == u.GetName() {
				return s, true
			}
		case rbacv1.GroupKind:
			if slices.Contains(u.GetGroups(), s.Name) {
				return s, true
			}
		case rbacv1.ServiceAccountKind:
			ns := cmp.Or(s.Namespace, namespace)
			if ns != "" && serviceaccount.MatchesUsername(ns, s.Name, u.GetName()) {
				return s, true
			}
		}
	}
	return rbacv1.Subject{}, false
}

// Allows tells whether one rule allows one request.
func Allows(rule rbacv1.PolicyRule, attrs authorizer.Attributes) bool {
	if !has(rule.Verbs, attrs.GetVerb()) {
		return false
	}
	if !attrs.IsResourceRequest() {
		return pathAllowed(rule.NonResourceURLs, attrs.GetPath())
	}
	return has(rule.APIGroups, attrs.GetAPIGroup()) &&
		resourceAllowed(rule.Resources, attrs.GetResource(), attrs.GetSubresource()) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, attrs.GetName()))
}

func has(allowed []string, value string) bool {
	return slices.Contains(allowed, "*") || slices.Contains(allowed, value)
}

func resourceAllowed(allowed []string, resource, subresource string) bool {
	combined := resource
	if subresource != "" {
		combined += "/" + subresource
	}
	return has(allowed, combined) || (subresource != "" && slices.Contains(allowed, "*/"+subresource))
}

func pathAllowed(allowed []string, path string) bool {
	for _, p := range allowed {
		if p == "*" || p == path {
			return true
		}
		if strings.HasSuffix(p, "*") && strings.HasPrefix(path, strings.TrimRight(p, "*")) {
			return true
		}
	}
	return false
}
