// Package policy is the API group policy: how much of a workload may be away at once.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// Group describes the group.
func Group() kind.Group {
	return kind.Group{
		Name:        policyv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: policyv1.AddToScheme,
		Kinds:       map[string][]kind.Definition{"v1": {podDisruptionBudgets()}},
	}
}

func podDisruptionBudgets() kind.Definition {
	doc := policyv1.PodDisruptionBudgetSpec{}.SwaggerDoc()
	return &kind.Kind[*policyv1.PodDisruptionBudget]{
		Resource: "poddisruptionbudgets", Singular: "poddisruptionbudget", ShortNames: []string{"pdb"},
		New:        func() *policyv1.PodDisruptionBudget { return &policyv1.PodDisruptionBudget{} },
		NewList:    func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },
		Generation: func(b *policyv1.PodDisruptionBudget) any { return b.Spec },
		Validate:   validateBudget,
		Status:     &kind.Status[*policyv1.PodDisruptionBudget]{Validate: validateBudgetStatus},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Min Available", doc["minAvailable"]),
			kind.Column("Max Unavailable", doc["maxUnavailable"]),
			kind.Number("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
			kind.AgeColumn,
		},
		Cells: func(b *policyv1.PodDisruptionBudget) []any {
			text := func(v *intstr.IntOrString) string {
				if v == nil {
					return "N/A"
				}
				return v.String()
			}
			return []any{b.Name, text(b.Spec.MinAvailable), text(b.Spec.MaxUnavailable), int64(b.Status.DisruptionsAllowed), kind.Age(b.CreationTimestamp)}
		},
	}
}

func validateBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	at, s := field.NewPath("spec"), &b.Spec
	var errs field.ErrorList
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(at, *s, "minAvailable and maxUnavailable cannot be both set"))
	}
	for _, v := range []struct {
		name  string
		value *intstr.IntOrString
	}{{"minAvailable", s.MinAvailable}, {"maxUnavailable", s.MaxUnavailable}} {
		if v.value != nil {
			errs = append(errs, kind.CountOrPercent(*v.value, at.Child(v.name))...)
			errs = append(errs, kind.NotMoreThanAll(*v.value, at.Child(v.name))...)
		}
	}
	errs = append(errs, unversioned.ValidateLabelSelector(s.Selector, unversioned.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	if p := s.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, kind.Supported(*p, at.Child("unhealthyPodEvictionPolicy"), policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}

func validateBudgetStatus(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	s, at := &b.Status, field.NewPath("status")
	errs := unversioned.ValidateConditions(s.Conditions, at.Child("conditions"))
	return append(errs, kind.Counts(at,
		kind.Count{Name: "disruptionsAllowed", N: int64(s.DisruptionsAllowed)},
		kind.Count{Name: "currentHealthy", N: int64(s.CurrentHealthy)},
		kind.Count{Name: "desiredHealthy", N: int64(s.DesiredHealthy)},
		kind.Count{Name: "expectedPods", N: int64(s.ExpectedPods)})...)
}
