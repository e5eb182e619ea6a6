package admissionregistration

import (
	"strings"

	arv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"
)

const (
	maxConditions = 64 // upstream's limits
	maxAudits     = 20
	maxVariables  = 64
)

// expressions compiles the CEL expressions of one object, so that what cannot run
// is refused when it is stored and not when it is needed.
type expressions struct {
	compiler *plugincel.CompositedCompiler
	params   bool
	errs     field.ErrorList
}

func newExpressions(params bool, path *field.Path) *expressions {
	e := &expressions{params: params}
	var err error
	e.compiler, err = plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		e.errs = append(e.errs, field.InternalError(path, err))
	}
	return e
}

// check compiles an expression that must be given.
func (e *expressions) check(path *field.Path, accessor plugincel.ExpressionAccessor, authorizer, patches bool) {
	text := accessor.GetExpression()
	if strings.TrimSpace(text) == "" {
		e.errs = append(e.errs, field.Required(path, "expression is not specified"))
		return
	}
	if e.compiler == nil {
		return
	}
	result := e.compiler.CompileCELExpression(accessor, plugincel.OptionalVariableDeclarations{
		HasParams: e.params, HasAuthorizer: authorizer, HasPatchTypes: patches,
	}, environment.NewExpressions)
	if result.Error != nil {
		e.errs = append(e.errs, field.Invalid(path, text, result.Error.Detail))
	}
}

func (e *expressions) variables(variables []arv1.Variable, patches bool, path *field.Path) {
	if len(variables) > maxVariables {
		e.errs = append(e.errs, field.TooMany(path, len(variables), maxVariables))
		return
	}
	seen := sets.New[string]()
	for i, v := range variables {
		at := path.Index(i)
		for _, problem := range validation.IsCIdentifier(v.Name) {
			e.errs = append(e.errs, field.Invalid(at.Child("name"), v.Name, problem))
		}
		if seen.Has(v.Name) {
			e.errs = append(e.errs, field.Duplicate(at.Child("name"), v.Name))
		}
		seen.Insert(v.Name)
		e.check(at.Child("expression"), &validating.Variable{Name: v.Name, Expression: v.Expression}, true, patches)
		if e.compiler != nil {
			e.compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression},
				plugincel.OptionalVariableDeclarations{HasParams: e.params, HasAuthorizer: true, HasPatchTypes: patches}, environment.NewExpressions)
		}
	}
}

func (e *expressions) conditions(conditions []arv1.MatchCondition, path *field.Path) {
	if len(conditions) > maxConditions {
		e.errs = append(e.errs, field.TooMany(path, len(conditions), maxConditions))
		return
	}
	seen := sets.New[string]()
	for i := range conditions {
		c, at := &conditions[i], path.Index(i)
		switch {
		case c.Name == "":
			e.errs = append(e.errs, field.Required(at.Child("name"), ""))
		case seen.Has(c.Name):
			e.errs = append(e.errs, field.Duplicate(at.Child("name"), c.Name))
		default:
			for _, problem := range validation.IsQualifiedName(c.Name) {
				e.errs = append(e.errs, field.Invalid(at.Child("name"), c.Name, problem))
			}
		}
		seen.Insert(c.Name)
		e.check(at.Child("expression"), (*matchconditions.MatchCondition)(c), true, false)
	}
}

// validateConditions checks those of a webhook.
func validateConditions(conditions []arv1.MatchCondition, params bool, path *field.Path) field.ErrorList {
	if len(conditions) == 0 {
		return nil
	}
	e := newExpressions(params, path)
	e.conditions(conditions, path)
	return e.errs
}

func validateValidatingPolicy(p *arv1.ValidatingAdmissionPolicy) field.ErrorList {
	spec := field.NewPath("spec")
	errs := oneOf(spec.Child("failurePolicy"), p.Spec.FailurePolicy, arv1.Ignore, arv1.Fail)
	errs = append(errs, validateParamKind(p.Spec.ParamKind, spec.Child("paramKind"))...)
	errs = append(errs, validateConstraints(p.Spec.MatchConstraints, spec.Child("matchConstraints"))...)
	e := newExpressions(p.Spec.ParamKind != nil, spec)
	e.variables(p.Spec.Variables, false, spec.Child("variables"))
	e.conditions(p.Spec.MatchConditions, spec.Child("matchConditions"))
	if len(p.Spec.Validations) == 0 && len(p.Spec.AuditAnnotations) == 0 {
		e.errs = append(e.errs, field.Required(spec.Child("validations"), "validations or auditAnnotations must be non-empty"))
	}
	for i, v := range p.Spec.Validations {
		at := spec.Child("validations").Index(i)
		e.check(at.Child("expression"), &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason}, true, false)
		if v.MessageExpression != "" {
			e.check(at.Child("messageExpression"), &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}, false, false)
		}
	}
	if len(p.Spec.AuditAnnotations) > maxAudits {
		e.errs = append(e.errs, field.TooMany(spec.Child("auditAnnotations"), len(p.Spec.AuditAnnotations), maxAudits))
		return append(errs, e.errs...)
	}
	for i, a := range p.Spec.AuditAnnotations {
		at := spec.Child("auditAnnotations").Index(i)
		for _, problem := range validation.IsQualifiedName(p.Name + "/" + a.Key) {
			e.errs = append(e.errs, field.Invalid(at.Child("key"), a.Key, problem))
		}
		e.check(at.Child("valueExpression"), &validating.AuditAnnotationCondition{Key: a.Key, ValueExpression: a.ValueExpression}, true, false)
	}
	return append(errs, e.errs...)
}

func validateMutatingPolicy(p *arv1.MutatingAdmissionPolicy) field.ErrorList {
	spec := field.NewPath("spec")
	errs := oneOf(spec.Child("failurePolicy"), p.Spec.FailurePolicy, arv1.Ignore, arv1.Fail)
	switch p.Spec.ReinvocationPolicy {
	case "":
		errs = append(errs, field.Required(spec.Child("reinvocationPolicy"), ""))
	default:
		errs = append(errs, oneOf(spec.Child("reinvocationPolicy"), &p.Spec.ReinvocationPolicy, arv1.NeverReinvocationPolicy, arv1.IfNeededReinvocationPolicy)...)
	}
	errs = append(errs, validateParamKind(p.Spec.ParamKind, spec.Child("paramKind"))...)
	errs = append(errs, validateConstraints(p.Spec.MatchConstraints, spec.Child("matchConstraints"))...)
	e := newExpressions(p.Spec.ParamKind != nil, spec)
	e.variables(p.Spec.Variables, true, spec.Child("variables"))
	e.conditions(p.Spec.MatchConditions, spec.Child("matchConditions"))
	if len(p.Spec.Mutations) == 0 {
		e.errs = append(e.errs, field.Required(spec.Child("mutations"), "mutations must contain at least one item"))
	}
	for i, m := range p.Spec.Mutations {
		e.mutation(m, spec.Child("mutations").Index(i))
	}
	return append(errs, e.errs...)
}

func (e *expressions) mutation(m arv1.Mutation, path *field.Path) {
	switch m.PatchType {
	case arv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil || m.JSONPatch != nil {
			e.errs = append(e.errs, field.Required(path.Child("applyConfiguration"), "must be specified, and nothing else, when patchType is ApplyConfiguration"))
			return
		}
		e.check(path.Child("applyConfiguration", "expression"), &patch.ApplyConfigurationCondition{Expression: m.ApplyConfiguration.Expression}, true, true)
	case arv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil || m.ApplyConfiguration != nil {
			e.errs = append(e.errs, field.Required(path.Child("jsonPatch"), "must be specified, and nothing else, when patchType is JSONPatch"))
			return
		}
		e.check(path.Child("jsonPatch", "expression"), &patch.JSONPatchCondition{Expression: m.JSONPatch.Expression}, true, true)
	case "":
		e.errs = append(e.errs, field.Required(path.Child("patchType"), ""))
	default:
		e.errs = append(e.errs, field.NotSupported(path.Child("patchType"), m.PatchType, []arv1.PatchType{arv1.PatchTypeApplyConfiguration, arv1.PatchTypeJSONPatch}))
	}
}
