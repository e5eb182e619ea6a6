package authz

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	rbacinformers "k8s.io/client-go/informers/rbac/v1"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"
)

// Stored are the roles and bindings of the cluster. What the store does not
// hold (yet) comes from a table: a node authorizes its own components before it
// has read a single role, and a cluster from whose store somebody has deleted
// the defaults still works well enough for them to be put back.
type Stored struct {
	defaults            *Table
	clusterRoles        rbaclisters.ClusterRoleLister
	clusterRoleBindings rbaclisters.ClusterRoleBindingLister
	roles               rbaclisters.RoleLister
	roleBindings        rbaclisters.RoleBindingLister

	// Every request asks for the cluster's bindings, which hardly ever change: they are
	// put together once for each state of the informer.
	state    atomic.Uint64 // counts what the informer tells
	together atomic.Pointer[bindingsAt]
}

// bindingsAt are all bindings of the cluster as of a state.
type bindingsAt struct {
	state    uint64
	bindings []*rbacv1.ClusterRoleBinding
}

var _ Roles = &Stored{}

// NewStored returns the roles that informers see, over defaults.
func NewStored(informers rbacinformers.Interface, defaults *Table) (*Stored, error) {
	s := &Stored{
		defaults:            defaults,
		clusterRoles:        informers.ClusterRoles().Lister(),
		clusterRoleBindings: informers.ClusterRoleBindings().Lister(),
		roles:               informers.Roles().Lister(),
		roleBindings:        informers.RoleBindings().Lister(),
	}
	changed := func() { s.state.Add(1) }
	_, err := informers.ClusterRoleBindings().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() }, UpdateFunc: func(any, any) { changed() }, DeleteFunc: func(any) { changed() },
	})
	if err != nil {
		return nil, fmt.Errorf("follow bindings of cluster roles: %w", err)
	}
	return s, nil
}

// ClusterRole implements Roles. An aggregated role is put together anew, so
// that it is right at once.
func (s *Stored) ClusterRole(name string) (*rbacv1.ClusterRole, bool) {
	role, err := s.clusterRoles.Get(name)
	if err != nil {
		return s.defaults.ClusterRole(name)
	}
	if role.AggregationRule == nil {
		return role, true
	}
	all, err := s.clusterRoles.List(labels.Everything())
	if err != nil {
		return role, true
	}
	out := *role
	out.Rules = Aggregate(role, all)
	return &out, true
}

// Aggregate returns the rules of the roles that an aggregated role selects, in
// the order of their names and each once. What it selects may itself be aggregated:
// view is a part of edit, and edit of admin.
func Aggregate(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) []rbacv1.PolicyRule {
	rules, seen := []rbacv1.PolicyRule{}, map[string]bool{}
	collect(role, all, map[string]bool{}, func(rule rbacv1.PolicyRule) {
		if key := rule.String(); !seen[key] {
			seen[key] = true
			rules = append(rules, rule)
		}
	})
	return rules
}

// collect visits every role once: roles may select each other.
func collect(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole, visited map[string]bool, add func(rbacv1.PolicyRule)) {
	visited[role.Name] = true
	if role.AggregationRule == nil {
		for _, rule := range role.Rules {
			add(rule)
		}
		return
	}
	var chosen []*rbacv1.ClusterRole
	for _, s := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			continue // validation has refused it
		}
		for _, r := range all {
			if selector.Matches(labels.Set(r.Labels)) {
				chosen = append(chosen, r)
			}
		}
	}
	slices.SortFunc(chosen, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	for _, r := range chosen {
		if !visited[r.Name] {
			collect(r, all, visited, add)
		}
	}
}

// ClusterRoleBindings implements Roles. Callers do not write to what it returns.
func (s *Stored) ClusterRoleBindings() []*rbacv1.ClusterRoleBinding {
	// The informer tells of a change after its cache holds it. So what is read from the
	// cache after the state was, is that state's at least.
	state := s.state.Load()
	if known := s.together.Load(); known != nil && known.state == state {
		return known.bindings
	}
	bindings := s.allClusterRoleBindings()
	s.together.Store(&bindingsAt{state, bindings})
	return bindings
}

func (s *Stored) allClusterRoleBindings() []*rbacv1.ClusterRoleBinding {
	stored, err := s.clusterRoleBindings.List(labels.Everything())
	if err != nil {
		return s.defaults.ClusterRoleBindings()
	}
	out := slices.Clone(stored)
	for _, b := range s.defaults.ClusterRoleBindings() {
		if _, err := s.clusterRoleBindings.Get(b.Name); err != nil {
			out = append(out, b)
		}
	}
	return out
}

// Role implements Roles.
func (s *Stored) Role(namespace, name string) (*rbacv1.Role, bool) {
	role, err := s.roles.Roles(namespace).Get(name)
	if err != nil {
		return s.defaults.Role(namespace, name)
	}
	return role, true
}

// RoleBindings implements Roles.
func (s *Stored) RoleBindings(namespace string) []*rbacv1.RoleBinding {
	stored, err := s.roleBindings.RoleBindings(namespace).List(labels.Everything())
	if err != nil {
		return s.defaults.RoleBindings(namespace)
	}
	out := slices.Clone(stored)
	for _, b := range s.defaults.RoleBindings(namespace) {
		if _, err := s.roleBindings.RoleBindings(namespace).Get(b.Name); err != nil {
			out = append(out, b)
		}
	}
	return out
}

// Held returns the rules of u in a namespace.
func (a *Authorizer) Held(u user.Info, namespace string) []rbacv1.PolicyRule {
	var rules []rbacv1.PolicyRule
	a.visit(u, namespace, func(_ *source, rule rbacv1.PolicyRule) bool {
		rules = append(rules, rule)
		return true
	})
	return rules
}

// Given returns the rules of a role that a binding in namespace refers to.
func (a *Authorizer) Given(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	b := &rbacv1.RoleBinding{RoleRef: ref}
	b.Namespace = namespace
	rules, ok := a.rulesOf(b)
	if !ok {
		what := map[string]string{"Role": "role", "ClusterRole": "clusterrole"}[ref.Kind]
		return nil, fmt.Errorf("%s.rbac.authorization.k8s.io %q not found", what, ref.Name)
	}
	return rules, nil
}
