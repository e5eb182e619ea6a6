package admissionregistration

import (
	arv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func validatingPolicies() kind.Definition {
	return &kind.Kind[*arv1.ValidatingAdmissionPolicy]{
		Resource: "validatingadmissionpolicies", Singular: "validatingadmissionpolicy", Cluster: true,
		Categories: []string{"api-extensions"},
		New:        func() *arv1.ValidatingAdmissionPolicy { return &arv1.ValidatingAdmissionPolicy{} },
		NewList:    func() runtime.Object { return &arv1.ValidatingAdmissionPolicyList{} },
		Generation: func(p *arv1.ValidatingAdmissionPolicy) any { return p.Spec },
		Status:     &kind.Status[*arv1.ValidatingAdmissionPolicy]{},
		Default: func(p *arv1.ValidatingAdmissionPolicy) {
			setDefault(&p.Spec.FailurePolicy, arv1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		},
		Validate: validateValidatingPolicy,
		Columns:  policyColumns("Validations", "Validations indicates the number of validation rules defined in this configuration"),
		Cells: func(p *arv1.ValidatingAdmissionPolicy) []any {
			return []any{p.Name, int64(len(p.Spec.Validations)), paramKind(p.Spec.ParamKind), kind.Age(p.CreationTimestamp)}
		},
	}
}

func mutatingPolicies() kind.Definition {
	return &kind.Kind[*arv1.MutatingAdmissionPolicy]{
		Resource: "mutatingadmissionpolicies", Singular: "mutatingadmissionpolicy", Cluster: true,
		Categories: []string{"api-extensions"},
		New:        func() *arv1.MutatingAdmissionPolicy { return &arv1.MutatingAdmissionPolicy{} },
		NewList:    func() runtime.Object { return &arv1.MutatingAdmissionPolicyList{} },
		Generation: func(p *arv1.MutatingAdmissionPolicy) any { return p.Spec },
		Default: func(p *arv1.MutatingAdmissionPolicy) {
			setDefault(&p.Spec.FailurePolicy, arv1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		},
		Validate: validateMutatingPolicy,
		Columns:  policyColumns("Mutations", "Mutations indicates the number of mutation rules defined in this configuration"),
		Cells: func(p *arv1.MutatingAdmissionPolicy) []any {
			return []any{p.Name, int64(len(p.Spec.Mutations)), paramKind(p.Spec.ParamKind), kind.Age(p.CreationTimestamp)}
		},
	}
}

func validatingBindings() kind.Definition {
	return &kind.Kind[*arv1.ValidatingAdmissionPolicyBinding]{
		Resource: "validatingadmissionpolicybindings", Singular: "validatingadmissionpolicybinding", Cluster: true,
		Categories: []string{"api-extensions"},
		New:        func() *arv1.ValidatingAdmissionPolicyBinding { return &arv1.ValidatingAdmissionPolicyBinding{} },
		NewList:    func() runtime.Object { return &arv1.ValidatingAdmissionPolicyBindingList{} },
		Generation: func(b *arv1.ValidatingAdmissionPolicyBinding) any { return b.Spec },
		Default:    func(b *arv1.ValidatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) },
		Validate: func(b *arv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
			spec := field.NewPath("spec")
			errs := validateBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources, spec)
			return append(errs, validateActions(b.Spec.ValidationActions, spec.Child("validationActions"))...)
		},
		Columns: bindingColumns(),
		Cells: func(b *arv1.ValidatingAdmissionPolicyBinding) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRef(b.Namespace, b.Spec.ParamRef), kind.Age(b.CreationTimestamp)}
		},
	}
}

func mutatingBindings() kind.Definition {
	return &kind.Kind[*arv1.MutatingAdmissionPolicyBinding]{
		Resource: "mutatingadmissionpolicybindings", Singular: "mutatingadmissionpolicybinding", Cluster: true,
		Categories: []string{"api-extensions"},
		New:        func() *arv1.MutatingAdmissionPolicyBinding { return &arv1.MutatingAdmissionPolicyBinding{} },
		NewList:    func() runtime.Object { return &arv1.MutatingAdmissionPolicyBindingList{} },
		Generation: func(b *arv1.MutatingAdmissionPolicyBinding) any { return b.Spec },
		Default:    func(b *arv1.MutatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) },
		Validate: func(b *arv1.MutatingAdmissionPolicyBinding) field.ErrorList {
			return validateBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources, field.NewPath("spec"))
		},
		Columns: bindingColumns(),
		Cells: func(b *arv1.MutatingAdmissionPolicyBinding) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRef(b.Namespace, b.Spec.ParamRef), kind.Age(b.CreationTimestamp)}
		},
	}
}

func policyColumns(what, description string) []metav1.TableColumnDefinition {
	count := kind.Column(what, description)
	count.Type = "integer"
	return []metav1.TableColumnDefinition{kind.NameColumn, count,
		kind.Column("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"), kind.AgeColumn}
}

func bindingColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{kind.NameColumn,
		kind.Column("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
		kind.Column("ParamRef", "ParamRef indicates the param resource which sets the configration param"), kind.AgeColumn}
}

func paramKind(p *arv1.ParamKind) string {
	if p == nil {
		return "<unset>"
	}
	return p.APIVersion + "/" + p.Kind
}

func paramRef(namespace string, p *arv1.ParamRef) string {
	switch {
	case p == nil:
		return "<unset>"
	case p.Name == "":
		return metav1.FormatLabelSelector(p.Selector)
	case p.Namespace != "":
		namespace = p.Namespace
	}
	if namespace == "" {
		namespace = "*"
	}
	return namespace + "/" + p.Name
}

func defaultMatch(m *arv1.MatchResources) {
	if m == nil {
		return
	}
	setDefault(&m.MatchPolicy, arv1.Equivalent)
	setDefault(&m.NamespaceSelector, metav1.LabelSelector{})
	setDefault(&m.ObjectSelector, metav1.LabelSelector{})
	for i := range m.ResourceRules {
		setDefault(&m.ResourceRules[i].Scope, arv1.AllScopes)
	}
	for i := range m.ExcludeResourceRules {
		setDefault(&m.ExcludeResourceRules[i].Scope, arv1.AllScopes)
	}
}

func validateMatch(m *arv1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	errs := oneOf(path.Child("matchPolicy"), m.MatchPolicy, arv1.Exact, arv1.Equivalent)
	errs = append(errs, validateSelector(m.NamespaceSelector, path.Child("namespaceSelector"))...)
	errs = append(errs, validateSelector(m.ObjectSelector, path.Child("objectSelector"))...)
	for i := range m.ResourceRules {
		errs = append(errs, validateRule(&m.ResourceRules[i].RuleWithOperations, path.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, validateRule(&m.ExcludeResourceRules[i].RuleWithOperations, path.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

func validateConstraints(m *arv1.MatchResources, path *field.Path) field.ErrorList {
	switch {
	case m == nil:
		return field.ErrorList{field.Required(path, "")}
	case len(m.ResourceRules) == 0:
		return field.ErrorList{field.Required(path.Child("resourceRules"), "")}
	}
	return validateMatch(m, path)
}

func validateParamKind(p *arv1.ParamKind, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	if p.APIVersion == "" {
		errs = append(errs, field.Required(path.Child("apiVersion"), ""))
	}
	if p.Kind == "" {
		errs = append(errs, field.Required(path.Child("kind"), ""))
	}
	return errs
}

func validateBinding(policy string, ref *arv1.ParamRef, match *arv1.MatchResources, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if policy == "" {
		errs = append(errs, field.Required(path.Child("policyName"), ""))
	} else {
		for _, problem := range validation.IsDNS1123Subdomain(policy) {
			errs = append(errs, field.Invalid(path.Child("policyName"), policy, problem))
		}
	}
	if ref != nil {
		at := path.Child("paramRef")
		switch {
		case ref.Name != "" && ref.Selector != nil:
			errs = append(errs, field.Forbidden(at.Child("name"), "name and selector are mutually exclusive"))
		case ref.Name == "" && ref.Selector == nil:
			errs = append(errs, field.Required(at, "one of name or selector must be specified"))
		}
		if ref.ParameterNotFoundAction == nil {
			errs = append(errs, field.Required(at.Child("parameterNotFoundAction"), ""))
		} else {
			errs = append(errs, oneOf(at.Child("parameterNotFoundAction"), ref.ParameterNotFoundAction, arv1.AllowAction, arv1.DenyAction)...)
		}
	}
	return append(errs, validateMatch(match, path.Child("matchResources"))...)
}

func validateActions(actions []arv1.ValidationAction, path *field.Path) field.ErrorList {
	if len(actions) == 0 {
		return field.ErrorList{field.Required(path, "at least one validation action is required")}
	}
	var errs field.ErrorList
	seen := sets.New[arv1.ValidationAction]()
	for i := range actions {
		errs = append(errs, oneOf(path.Index(i), &actions[i], arv1.Audit, arv1.Deny, arv1.Warn)...)
		if seen.Has(actions[i]) {
			errs = append(errs, field.Duplicate(path.Index(i), actions[i]))
		}
		seen.Insert(actions[i])
	}
	if seen.HasAll(arv1.Deny, arv1.Warn) {
		errs = append(errs, field.Invalid(path, actions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}
