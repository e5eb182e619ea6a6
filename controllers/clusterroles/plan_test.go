package clusterroles

import (
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
		for _, role := range plan(in.Roles) {
			out[role.Name] = []string{}
			for _, rule := range role.Rules {
				out[role.Name] = append(out[role.Name], rule.Resources...)
			}
		}
		return out
	})
}
