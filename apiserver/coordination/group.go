// Package coordination is the API group coordination.k8s.io: leases, by which
// components agree on who acts.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// Group describes the group.
func Group() kind.Group {
	return kind.Group{
		Name:        coordinationv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: coordinationv1.AddToScheme,
		Kinds:       map[string][]kind.Definition{"v1": {leases()}},
	}
}

func leases() kind.Definition {
	return &kind.Kind[*coordinationv1.Lease]{
		Resource: "leases", Singular: "lease",
		New:            func() *coordinationv1.Lease { return &coordinationv1.Lease{} },
		NewList:        func() runtime.Object { return &coordinationv1.LeaseList{} },
		CreateOnUpdate: true, ConditionalUpdate: true,
		Validate: validateLease,
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Holder", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]),
			kind.AgeColumn,
		},
		Cells: func(l *coordinationv1.Lease) []any {
			holder := ""
			if l.Spec.HolderIdentity != nil {
				holder = *l.Spec.HolderIdentity
			}
			return []any{l.Name, holder, kind.Age(l.CreationTimestamp)}
		},
	}
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(spec.Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	if n := l.Spec.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(spec.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
	}
	return errs
}
