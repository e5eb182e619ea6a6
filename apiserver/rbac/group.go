// Package rbac is the API group rbac.authorization.k8s.io: roles and who has
// them. Nobody may give away what they have not.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// Group describes the group. The guard decides who may grant what.
func Group(guard Guard) kind.Group {
	return kind.Group{
		Name:        rbacv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: rbacv1.AddToScheme,
		Kinds:       map[string][]kind.Definition{"v1": {roles(guard), roleBindings(guard), clusterRoles(guard), clusterRoleBindings(guard)}},
	}
}

var (
	createdAt   = metav1.TableColumnDefinition{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]}
	roleColumns = []metav1.TableColumnDefinition{kind.NameColumn, createdAt}
)

func created(t metav1.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func segmentName(name string, _ bool) []string { return path.IsValidPathSegmentName(name) }

func roles(guard Guard) kind.Definition {
	return &kind.Kind[*rbacv1.Role]{
		Resource: "roles", Singular: "role",
		New:            func() *rbacv1.Role { return &rbacv1.Role{} },
		NewList:        func() runtime.Object { return &rbacv1.RoleList{} },
		Name:           segmentName,
		CreateOnUpdate: true,
		Validate:       func(r *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) },
		Columns:        roleColumns,
		Cells:          func(r *rbacv1.Role) []any { return []any{r.Name, created(r.CreationTimestamp)} },
		Extend:         guard.onRoles("roles"),
	}
}

func clusterRoles(guard Guard) kind.Definition {
	return &kind.Kind[*rbacv1.ClusterRole]{
		Resource: "clusterroles", Singular: "clusterrole",
		Cluster:        true,
		New:            func() *rbacv1.ClusterRole { return &rbacv1.ClusterRole{} },
		NewList:        func() runtime.Object { return &rbacv1.ClusterRoleList{} },
		Name:           segmentName,
		CreateOnUpdate: true,
		Validate: func(r *rbacv1.ClusterRole) field.ErrorList {
			errs := validateRules(r.Rules, false)
			if r.AggregationRule == nil {
				return errs
			}
			at := field.NewPath("aggregationRule", "clusterRoleSelectors")
			if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
				errs = append(errs, field.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
			}
			for i := range r.AggregationRule.ClusterRoleSelectors {
				errs = append(errs, unversioned.ValidateLabelSelector(&r.AggregationRule.ClusterRoleSelectors[i], unversioned.LabelSelectorValidationOptions{}, at.Index(i))...)
				if _, err := metav1.LabelSelectorAsSelector(&r.AggregationRule.ClusterRoleSelectors[i]); err != nil {
					errs = append(errs, field.Invalid(at.Index(i), nil, "invalid label selector."))
				}
			}
			return errs
		},
		Columns: roleColumns,
		Cells:   func(r *rbacv1.ClusterRole) []any { return []any{r.Name, created(r.CreationTimestamp)} },
		Extend:  guard.onRoles("clusterroles"),
	}
}

var bindingColumns = []metav1.TableColumnDefinition{
	kind.NameColumn,
	kind.Column("Role", rbacv1.RoleBinding{}.SwaggerDoc()["roleRef"]),
	kind.AgeColumn,
	kind.Wide("Users", "Users in the binding"),
	kind.Wide("Groups", "Groups in the binding"),
	kind.Wide("ServiceAccounts", "ServiceAccounts in the binding"),
}

func bindingCells(m metav1.ObjectMeta, ref rbacv1.RoleRef, subjects []rbacv1.Subject) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{
		m.Name, ref.Kind + "/" + ref.Name, kind.Age(m.CreationTimestamp),
		strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", "),
	}
}

func roleBindings(guard Guard) kind.Definition {
	return &kind.Kind[*rbacv1.RoleBinding]{
		Resource: "rolebindings", Singular: "rolebinding",
		New:            func() *rbacv1.RoleBinding { return &rbacv1.RoleBinding{} },
		NewList:        func() runtime.Object { return &rbacv1.RoleBindingList{} },
		Name:           segmentName,
		CreateOnUpdate: true,
		Default: func(b *rbacv1.RoleBinding) {
			defaultBinding(&b.RoleRef, b.Subjects)
		},
		Validate: func(b *rbacv1.RoleBinding) field.ErrorList {
			return validateBinding(b.RoleRef, b.Subjects, true)
		},
		ValidateUpdate: func(b, old *rbacv1.RoleBinding) field.ErrorList {
			return append(validateBinding(b.RoleRef, b.Subjects, true), sameRole(b.RoleRef, old.RoleRef)...)
		},
		Columns: bindingColumns,
		Cells:   func(b *rbacv1.RoleBinding) []any { return bindingCells(b.ObjectMeta, b.RoleRef, b.Subjects) },
		Extend:  guard.onBindings("rolebindings"),
	}
}

func clusterRoleBindings(guard Guard) kind.Definition {
	return &kind.Kind[*rbacv1.ClusterRoleBinding]{
		Resource: "clusterrolebindings", Singular: "clusterrolebinding",
		Cluster:        true,
		New:            func() *rbacv1.ClusterRoleBinding { return &rbacv1.ClusterRoleBinding{} },
		NewList:        func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} },
		Name:           segmentName,
		CreateOnUpdate: true,
		Default:        func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
		Validate: func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
			return validateBinding(b.RoleRef, b.Subjects, false)
		},
		ValidateUpdate: func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
			return append(validateBinding(b.RoleRef, b.Subjects, false), sameRole(b.RoleRef, old.RoleRef)...)
		},
		Columns: bindingColumns,
		Cells:   func(b *rbacv1.ClusterRoleBinding) []any { return bindingCells(b.ObjectMeta, b.RoleRef, b.Subjects) },
		Extend:  guard.onBindings("clusterrolebindings"),
	}
}

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	kind.SetDefault(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if s := &subjects[i]; s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind {
			kind.SetDefault(&s.APIGroup, rbacv1.GroupName)
		}
	}
}

func sameRole(ref, old rbacv1.RoleRef) field.ErrorList {
	if ref != old {
		return field.ErrorList{field.Invalid(field.NewPath("roleRef"), ref, "cannot change roleRef")}
	}
	return nil
}

func validateRules(rules []rbacv1.PolicyRule, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i, r := range rules {
		at := field.NewPath("rules").Index(i)
		if len(r.NonResourceURLs) > 0 {
			to := at.Child("nonResourceURLs")
			if namespaced {
				errs = append(errs, field.Invalid(to, r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
			}
			if len(r.APIGroups) > 0 || len(r.Resources) > 0 || len(r.ResourceNames) > 0 {
				errs = append(errs, field.Invalid(to, r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
			}
			errs = append(errs, validateVerbs(r.Verbs, at)...)
			continue
		}
		if len(r.APIGroups) == 0 {
			errs = append(errs, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(r.Resources) == 0 {
			errs = append(errs, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
		}
		errs = append(errs, validateVerbs(r.Verbs, at)...)
	}
	return errs
}

func validateVerbs(verbs []string, at *field.Path) field.ErrorList {
	if len(verbs) == 0 {
		return field.ErrorList{field.Required(at.Child("verbs"), "")}
	}
	return nil
}

func validateBinding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool) field.ErrorList {
	at := field.NewPath("roleRef")
	var errs field.ErrorList
	if ref.APIGroup != rbacv1.GroupName {
		errs = append(errs, field.NotSupported(at.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	kinds := []string{"ClusterRole"}
	if namespaced {
		kinds = []string{"Role", "ClusterRole"}
	}
	errs = append(errs, kind.Supported(ref.Kind, at.Child("kind"), kinds...)...)
	if ref.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else {
		errs = append(errs, kind.Invalid(at.Child("name"), ref.Name, path.IsValidPathSegmentName(ref.Name))...)
	}
	for i, s := range subjects {
		errs = append(errs, validateSubject(s, namespaced, field.NewPath("subjects").Index(i))...)
	}
	return errs
}

func validateSubject(s rbacv1.Subject, namespaced bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			errs = append(errs, kind.Invalid(at.Child("name"), s.Name, validation.ValidateServiceAccountName(s.Name, false))...)
		}
		if s.APIGroup != "" {
			errs = append(errs, field.NotSupported(at.Child("apiGroup"), s.APIGroup, []string{""}))
		}
		if !namespaced && s.Namespace == "" {
			errs = append(errs, field.Required(at.Child("namespace"), ""))
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		if s.APIGroup != rbacv1.GroupName {
			errs = append(errs, field.NotSupported(at.Child("apiGroup"), s.APIGroup, []string{rbacv1.GroupName}))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	return errs
}
