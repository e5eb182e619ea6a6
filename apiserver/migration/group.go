// Package migration is the API group storagemigration.k8s.io: requests to write all
// objects of a resource anew in their storage version. They are kept; what is stored
// here is always written in one version, so that there is nothing to migrate.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package migration

import (
	"strings"

	migrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// Group describes the group.
func Group() kind.Group {
	return kind.Group{
		Name:        migrationv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: migrationv1.AddToScheme,
		Kinds:       map[string][]kind.Definition{"v1": {migrations()}},
	}
}

func migrations() kind.Definition {
	return &kind.Kind[*migrationv1.StorageVersionMigration]{
		Resource: "storageversionmigrations", Singular: "storageversionmigration",
		Cluster:           true,
		ConditionalUpdate: true,
		New:               func() *migrationv1.StorageVersionMigration { return &migrationv1.StorageVersionMigration{} },
		NewList:           func() runtime.Object { return &migrationv1.StorageVersionMigrationList{} },
		Validate:          validateMigration,
		ValidateUpdate: func(m, old *migrationv1.StorageVersionMigration) field.ErrorList {
			return append(validateMigration(m), validation.ValidateImmutableField(m.Spec, old.Spec, field.NewPath("spec"))...)
		},
		Status: &kind.Status[*migrationv1.StorageVersionMigration]{Validate: validateStatus},
		Columns: []metav1.TableColumnDefinition{
			kind.Column("Name", kind.NameColumn.Description),
			kind.Column("Resource", "GroupResource to migrate"),
			kind.Column("Status", "Status of the migration"),
		},
		Cells: func(m *migrationv1.StorageVersionMigration) []any {
			return []any{m.Name, m.Spec.Resource.String(), stateOf(m)}
		},
	}
}

func stateOf(m *migrationv1.StorageVersionMigration) string {
	state := "Unknown"
	for _, c := range m.Status.Conditions {
		if c.Status == metav1.ConditionTrue {
			state = c.Type
		}
	}
	return state
}

func validateMigration(m *migrationv1.StorageVersionMigration) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("spec", "resource")
	if m.Spec.Resource.Resource == "" {
		errs = append(errs, field.Required(at.Child("resource"), "resource is required to be set"))
	} else if wrong := utilvalidation.IsDNS1035Label(m.Spec.Resource.Resource); len(wrong) > 0 {
		errs = append(errs, field.Invalid(at.Child("resource"), m.Spec.Resource.Resource, strings.Join(wrong, ",")))
	}
	if g := m.Spec.Resource.Group; g != "" {
		if wrong := utilvalidation.IsDNS1123Subdomain(g); len(wrong) > 0 {
			errs = append(errs, field.Invalid(at.Child("group"), g, strings.Join(wrong, ",")))
		}
	}
	return errs
}

func validateStatus(m, old *migrationv1.StorageVersionMigration) field.ErrorList {
	at := field.NewPath("status")
	conditions := at.Child("conditions")
	errs := unversioned.ValidateConditions(m.Status.Conditions, conditions)
	if was := old.Status.ResourceVersion; was != "" && was != m.Status.ResourceVersion {
		errs = append(errs, field.Invalid(at.Child("resourceVersion"), m.Status.ResourceVersion, "field is immutable"))
	}
	is := func(m *migrationv1.StorageVersionMigration, t migrationv1.MigrationConditionType) bool {
		return meta.IsStatusConditionTrue(m.Status.Conditions, string(t))
	}
	if is(m, migrationv1.MigrationSucceeded) && is(m, migrationv1.MigrationFailed) {
		errs = append(errs, field.Invalid(conditions, m.Status.Conditions, "Both success and failed conditions cannot be true at the same time"))
	}
	if is(old, migrationv1.MigrationSucceeded) && !is(m, migrationv1.MigrationSucceeded) {
		errs = append(errs, field.Invalid(conditions, m.Status.Conditions, "Success condition cannot be set to false once it is true"))
	}
	if is(old, migrationv1.MigrationFailed) && !is(m, migrationv1.MigrationFailed) {
		errs = append(errs, field.Invalid(conditions, m.Status.Conditions, "Failed condition cannot be set to false once it is true"))
	}
	return errs
}
