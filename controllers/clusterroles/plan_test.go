package clusterroles

import (
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"kontiki/controllers/plantest"
)

type input struct {
	Roles []*rbacv1.ClusterRole `json:"roles"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) map[string][]string {
		out := map[string][]string{}
		changed := plan(in.Roles)
		for _, role := range changed {
			out[role.Name] = []string{}
			for _, rule := range role.Rules {
				out[role.Name] = append(out[role.Name], rule.Resources...)
			}
		}
		if again := plan(written(in.Roles, changed)); len(again) > 0 {
			t.Errorf("once written, there is more to write: %v", again)
		}
		return out
	})
}

// written are the roles once the changed ones are written.
func written(roles, changed []*rbacv1.ClusterRole) []*rbacv1.ClusterRole {
	roles = slices.Clone(roles)
	for _, role := range changed {
		roles[slices.IndexFunc(roles, func(r *rbacv1.ClusterRole) bool { return r.Name == role.Name })] = role
	}
	return roles
}
