// Package clusterroles gives ClusterRoles with an aggregationRule the rules of the
// roles that it selects.
//
// plan is pure. One worker decides over all roles at a time. Only controllers
// imports this package.
package clusterroles

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs.
const Name = "clusterroles"

// all is the one key: a role's labels may concern any other.
const all = "all"

// Controller aggregates ClusterRoles.
type Controller struct {
	client   kubernetes.Interface
	roles    rbaclisters.ClusterRoleLister
	informer cache.SharedIndexInformer
	loop     *loop.Loop
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger) *Controller {
	roles := shared.Rbac().V1().ClusterRoles()
	return &Controller{client: client, roles: roles.Lister(), informer: roles.Informer(), loop: loop.New(Name, log)}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if err := loop.On(c.loop, c.informer, func(_, _ *rbacv1.ClusterRole) { c.loop.Add(all) }); err != nil {
		return err
	}
	return c.loop.Run(ctx, 1, c.sync)
}

func (c *Controller) sync(ctx context.Context, _ string) error {
	roles, err := c.roles.List(labels.Everything())
	if err != nil {
		return err
	}
	var failed []error
	for _, role := range plan(roles) {
		_, err := c.client.RbacV1().ClusterRoles().Update(ctx, role, metav1.UpdateOptions{})
		if err != nil && !loop.Expected(err) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// plan answers the roles whose rules are not those of the roles they select, with
// what they should be. A role that selects itself is not asked.
func plan(roles []*rbacv1.ClusterRole) []*rbacv1.ClusterRole {
	roles = slices.SortedFunc(slices.Values(roles), func(a, b *rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	var changed []*rbacv1.ClusterRole
	for _, role := range roles {
		if !aggregates(role) {
			continue
		}
		rules := gather(nil, role, roles, map[string]bool{role.Name: true})
		if !equality.Semantic.DeepEqual(rules, role.Rules) {
			update := role.DeepCopy()
			update.Rules = rules
			changed = append(changed, update)
		}
	}
	return changed
}

func aggregates(role *rbacv1.ClusterRole) bool {
	return role.AggregationRule != nil && role.DeletionTimestamp == nil
}

// gather adds the rules of the roles that a role selects, and in place of the rules
// of one that aggregates itself those that it will have. So the answer comes from
// rules alone that somebody wrote: it is found at once, and roles that select each
// other neither take turns nor keep a rule alive that nobody gives any more.
func gather(rules []rbacv1.PolicyRule, role *rbacv1.ClusterRole, roles []*rbacv1.ClusterRole, seen map[string]bool) []rbacv1.PolicyRule {
	for _, s := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			continue // the API has refused such a role
		}
		for _, other := range roles {
			if seen[other.Name] || !selector.Matches(labels.Set(other.Labels)) {
				continue
			}
			seen[other.Name] = true
			if aggregates(other) {
				rules = gather(rules, other, roles, seen)
			} else {
				rules = add(rules, other.Rules)
			}
		}
	}
	return rules
}

func add(rules, more []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	for _, rule := range more {
		if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, rule) }) {
			rules = append(rules, rule)
		}
	}
	return rules
}
