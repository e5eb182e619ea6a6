package admissionregistration

import (
	"slices"
	"strings"

	arv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"

	"kontiki/apiserver/kind"
)

func validatingWebhooks() kind.Definition {
	return &kind.Kind[*arv1.ValidatingWebhookConfiguration]{
		Resource: "validatingwebhookconfigurations", Singular: "validatingwebhookconfiguration", Cluster: true,
		Categories: []string{"api-extensions"},
		New:        func() *arv1.ValidatingWebhookConfiguration { return &arv1.ValidatingWebhookConfiguration{} },
		NewList:    func() runtime.Object { return &arv1.ValidatingWebhookConfigurationList{} },
		Generation: func(c *arv1.ValidatingWebhookConfiguration) any { return c.Webhooks },
		Default: func(c *arv1.ValidatingWebhookConfiguration) {
			for i := range c.Webhooks {
				defaultHook(ofValidating(&c.Webhooks[i]))
			}
		},
		Validate: func(c *arv1.ValidatingWebhookConfiguration) field.ErrorList {
			names, errs := sets.New[string](), field.ErrorList{}
			for i := range c.Webhooks {
				errs = append(errs, validateHook(ofValidating(&c.Webhooks[i]), names, field.NewPath("webhooks").Index(i))...)
			}
			return errs
		},
		Columns: hookColumns(),
		Cells: func(c *arv1.ValidatingWebhookConfiguration) []any {
			return []any{c.Name, int64(len(c.Webhooks)), kind.Age(c.CreationTimestamp)}
		},
	}
}

func mutatingWebhooks() kind.Definition {
	return &kind.Kind[*arv1.MutatingWebhookConfiguration]{
		Resource: "mutatingwebhookconfigurations", Singular: "mutatingwebhookconfiguration", Cluster: true,
		Categories: []string{"api-extensions"},
		New:        func() *arv1.MutatingWebhookConfiguration { return &arv1.MutatingWebhookConfiguration{} },
		NewList:    func() runtime.Object { return &arv1.MutatingWebhookConfigurationList{} },
		Generation: func(c *arv1.MutatingWebhookConfiguration) any { return c.Webhooks },
		Default: func(c *arv1.MutatingWebhookConfiguration) {
			for i := range c.Webhooks {
				w := &c.Webhooks[i]
				setDefault(&w.ReinvocationPolicy, arv1.NeverReinvocationPolicy)
				defaultHook(ofMutating(w))
			}
		},
		Validate: func(c *arv1.MutatingWebhookConfiguration) field.ErrorList {
			names, errs := sets.New[string](), field.ErrorList{}
			for i := range c.Webhooks {
				w, path := &c.Webhooks[i], field.NewPath("webhooks").Index(i)
				errs = append(errs, validateHook(ofMutating(w), names, path)...)
				errs = append(errs, oneOf(path.Child("reinvocationPolicy"), w.ReinvocationPolicy, arv1.NeverReinvocationPolicy, arv1.IfNeededReinvocationPolicy)...)
			}
			return errs
		},
		Columns: hookColumns(),
		Cells: func(c *arv1.MutatingWebhookConfiguration) []any {
			return []any{c.Name, int64(len(c.Webhooks)), kind.Age(c.CreationTimestamp)}
		},
	}
}

func hookColumns() []metav1.TableColumnDefinition {
	webhooks := kind.Column("Webhooks", "Webhooks indicates the number of webhooks defined in this configuration")
	webhooks.Type = "integer"
	return []metav1.TableColumnDefinition{kind.NameColumn, webhooks, kind.AgeColumn}
}

// hook is what both kinds of webhooks have.
type hook struct {
	name              string
	client            *arv1.WebhookClientConfig
	rules             []arv1.RuleWithOperations
	failurePolicy     **arv1.FailurePolicyType
	matchPolicy       **arv1.MatchPolicyType
	namespaceSelector **metav1.LabelSelector
	objectSelector    **metav1.LabelSelector
	sideEffects       *arv1.SideEffectClass
	timeout           **int32
	reviewVersions    []string
	conditions        []arv1.MatchCondition
}

func ofValidating(w *arv1.ValidatingWebhook) hook {
	return hook{w.Name, &w.ClientConfig, w.Rules, &w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector,
		w.SideEffects, &w.TimeoutSeconds, w.AdmissionReviewVersions, w.MatchConditions}
}

func ofMutating(w *arv1.MutatingWebhook) hook {
	return hook{w.Name, &w.ClientConfig, w.Rules, &w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector,
		w.SideEffects, &w.TimeoutSeconds, w.AdmissionReviewVersions, w.MatchConditions}
}

func setDefault[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func defaultHook(h hook) {
	setDefault(h.failurePolicy, arv1.Fail)
	setDefault(h.matchPolicy, arv1.Equivalent)
	setDefault(h.namespaceSelector, metav1.LabelSelector{})
	setDefault(h.objectSelector, metav1.LabelSelector{})
	setDefault(h.timeout, 10)
	if s := h.client.Service; s != nil {
		setDefault(&s.Port, 443)
	}
	for i := range h.rules {
		setDefault(&h.rules[i].Scope, arv1.AllScopes)
	}
}

func validateHook(h hook, names sets.Set[string], path *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(path.Child("name"), h.name)
	if names.Has(h.name) {
		errs = append(errs, field.Duplicate(path.Child("name"), h.name))
	}
	names.Insert(h.name)
	for i := range h.rules {
		errs = append(errs, validateRule(&h.rules[i], path.Child("rules").Index(i))...)
	}
	errs = append(errs, oneOf(path.Child("failurePolicy"), *h.failurePolicy, arv1.Ignore, arv1.Fail)...)
	errs = append(errs, oneOf(path.Child("matchPolicy"), *h.matchPolicy, arv1.Exact, arv1.Equivalent)...)
	if h.sideEffects == nil {
		errs = append(errs, field.Required(path.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	} else {
		errs = append(errs, oneOf(path.Child("sideEffects"), h.sideEffects, arv1.SideEffectClassNone, arv1.SideEffectClassNoneOnDryRun)...)
	}
	if t := **h.timeout; t < 1 || t > 30 {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), t, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, validateSelector(*h.namespaceSelector, path.Child("namespaceSelector"))...)
	errs = append(errs, validateSelector(*h.objectSelector, path.Child("objectSelector"))...)
	errs = append(errs, validateClient(h.client, path.Child("clientConfig"))...)
	errs = append(errs, validateReviewVersions(h.reviewVersions, path.Child("admissionReviewVersions"))...)
	return append(errs, validateConditions(h.conditions, false, path.Child("matchConditions"))...)
}

func validateSelector(s *metav1.LabelSelector, path *field.Path) field.ErrorList {
	return metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, path)
}

func validateClient(c *arv1.WebhookClientConfig, path *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(path, "exactly one of url or service is required")}
	case c.URL != nil:
		return webhook.ValidateWebhookURL(path.Child("url"), *c.URL, true)
	}
	return webhook.ValidateWebhookService(path.Child("service"), c.Service.Name, c.Service.Namespace, c.Service.Path, *c.Service.Port)
}

// validateReviewVersions wants one that the library speaks.
func validateReviewVersions(versions []string, path *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of v1, v1beta1")}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, v := range versions {
		if seen.Has(v) {
			errs = append(errs, field.Invalid(path.Index(i), v, "duplicate version"))
			continue
		}
		seen.Insert(v)
		for _, problem := range validation.IsDNS1035Label(v) {
			errs = append(errs, field.Invalid(path.Index(i), v, problem))
		}
	}
	if len(errs) == 0 && !seen.HasAny("v1", "v1beta1") {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of v1, v1beta1"))
	}
	return errs
}

func oneOf[T ~string](path *field.Path, got *T, allowed ...T) field.ErrorList {
	if got == nil || slices.Contains(allowed, *got) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, *got, allowed)}
}

func validateRule(r *arv1.RuleWithOperations, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Operations) == 0 {
		errs = append(errs, field.Required(path.Child("operations"), ""))
	}
	if len(r.Operations) > 1 && slices.Contains(r.Operations, arv1.OperationAll) {
		errs = append(errs, field.Invalid(path.Child("operations"), r.Operations, "if '*' is present, must not specify other operations"))
	}
	for i := range r.Operations {
		errs = append(errs, oneOf(path.Child("operations").Index(i), &r.Operations[i], arv1.OperationAll, arv1.Create, arv1.Update, arv1.Delete, arv1.Connect)...)
	}
	errs = append(errs, starOr("group", r.APIGroups, path.Child("apiGroups"))...)
	errs = append(errs, starOr("version", r.APIVersions, path.Child("apiVersions"))...)
	for i, v := range r.APIVersions {
		if v == "" {
			errs = append(errs, field.Required(path.Child("apiVersions").Index(i), ""))
		}
	}
	errs = append(errs, validateResources(r.Resources, path.Child("resources"))...)
	return append(errs, oneOf(path.Child("scope"), r.Scope, arv1.AllScopes, arv1.ClusterScope, arv1.NamespacedScope)...)
}

func starOr(what string, values []string, path *field.Path) field.ErrorList {
	if len(values) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	if len(values) > 1 && slices.Contains(values, "*") {
		return field.ErrorList{field.Invalid(path, values, "if '*' is present, must not specify other API "+what+"s")}
	}
	return nil
}

// validateResources refuses overlapping wild cards: nobody would know later which
// of them was meant.
func validateResources(resources []string, path *field.Path) field.ErrorList {
	if len(resources) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	for i, r := range resources {
		if r == "" {
			errs = append(errs, field.Required(path.Index(i), ""))
			continue
		}
		name, sub, isSub := strings.Cut(r, "/")
		if (isSub && name != "*" && sub != "*" && slices.Contains(resources, name+"/*")) || (isSub && name != "*" && slices.Contains(resources, "*/"+sub)) {
			errs = append(errs, field.Invalid(path.Index(i), r, "must not specify what a wild card of this list already covers"))
		}
	}
	if len(resources) > 1 && slices.Contains(resources, "*/*") {
		errs = append(errs, field.Invalid(path, resources, "if '*/*' is present, must not specify other resources"))
	}
	return errs
}
