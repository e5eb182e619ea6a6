package flowcontrol

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"

	"kontiki/apiserver/kind"
)

var verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}

func validateSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	at := field.NewPath("spec")
	errs := validateSchemaSpec(s, at)
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		if fixed.Name == s.Name && !apiequality.Semantic.DeepEqual(s.Spec, fixed.Spec) {
			errs = append(errs, field.Invalid(at, s.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", s.Name)))
		}
	}
	return append(errs, validateSchemaStatus(s)...)
}

func validateSchemaSpec(s *flowcontrolv1.FlowSchema, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec := &s.Spec
	precedence := at.Child("matchingPrecedence")
	if spec.MatchingPrecedence <= 0 {
		errs = append(errs, field.Invalid(precedence, spec.MatchingPrecedence, "must be a positive value"))
	}
	if spec.MatchingPrecedence > flowcontrolv1.FlowSchemaMaxMatchingPrecedence {
		errs = append(errs, field.Invalid(precedence, spec.MatchingPrecedence, fmt.Sprintf("must not be greater than %v", flowcontrolv1.FlowSchemaMaxMatchingPrecedence)))
	}
	if spec.MatchingPrecedence == 1 && s.Name != flowcontrolv1.FlowSchemaNameExempt {
		errs = append(errs, field.Invalid(precedence, spec.MatchingPrecedence, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if m := spec.DistinguisherMethod; m != nil && m.Type != flowcontrolv1.FlowDistinguisherMethodByNamespaceType && m.Type != flowcontrolv1.FlowDistinguisherMethodByUserType {
		errs = append(errs, field.NotSupported(at.Child("distinguisherMethod", "type"), m,
			[]flowcontrolv1.FlowDistinguisherMethodType{flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType}))
	}
	level := at.Child("priorityLevelConfiguration", "name")
	if name := spec.PriorityLevelConfiguration.Name; name == "" {
		errs = append(errs, field.Required(level, "must reference a priority level"))
	} else {
		errs = append(errs, kind.Invalid(level, name, validation.NameIsDNSSubdomain(name, false))...)
	}
	for i := range spec.Rules {
		errs = append(errs, validateRule(&spec.Rules[i], at.Child("rules").Index(i))...)
	}
	return errs
}

func validateRule(r *flowcontrolv1.PolicyRulesWithSubjects, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(at.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateSubject(&r.Subjects[i], at.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, validateResourceRule(&r.ResourceRules[i], at.Child("resourceRules").Index(i))...)
	}
	for i := range r.NonResourceRules {
		rule, at := &r.NonResourceRules[i], at.Child("nonResourceRules").Index(i)
		errs = append(errs, validateVerbs(rule.Verbs, at.Child("verbs"))...)
		errs = append(errs, validateURLs(rule.NonResourceURLs, at.Child("nonResourceURLs"))...)
	}
	return errs
}

func validateSubject(s *flowcontrolv1.Subject, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	account, user, group := s.Kind == flowcontrolv1.SubjectKindServiceAccount, s.Kind == flowcontrolv1.SubjectKindUser, s.Kind == flowcontrolv1.SubjectKindGroup
	switch {
	case account:
		errs = validateAccount(s.ServiceAccount, at.Child("serviceAccount"))
	case user && s.User == nil:
		errs = field.ErrorList{field.Required(at.Child("user"), "user is required when subject kind is 'User'")}
	case user && s.User.Name == "":
		errs = field.ErrorList{field.Required(at.Child("user", "name"), "")}
	case group && s.Group == nil:
		errs = field.ErrorList{field.Required(at.Child("group"), "group is required when subject kind is 'Group'")}
	case group && s.Group.Name == "":
		errs = field.ErrorList{field.Required(at.Child("group", "name"), "")}
	case user, group:
	default:
		return field.ErrorList{field.NotSupported(at.Child("kind"), s.Kind,
			[]flowcontrolv1.SubjectKind{flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser})}
	}
	forbid := func(set bool, name, wanted string) {
		if set {
			errs = append(errs, field.Forbidden(at.Child(name), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", name, wanted)))
		}
	}
	forbid(!account && s.ServiceAccount != nil, "serviceAccount", "ServiceAccount")
	forbid(!user && s.User != nil, "user", "User")
	forbid(!group && s.Group != nil, "group", "Group")
	return errs
}

func validateAccount(s *flowcontrolv1.ServiceAccountSubject, at *field.Path) field.ErrorList {
	if s == nil {
		return field.ErrorList{field.Required(at, "serviceAccount is required when subject kind is 'ServiceAccount'")}
	}
	var errs field.ErrorList
	switch s.Name {
	case "":
		errs = append(errs, field.Required(at.Child("name"), ""))
	case flowcontrolv1.NameAll:
	default:
		errs = append(errs, kind.Invalid(at.Child("name"), s.Name, validation.ValidateServiceAccountName(s.Name, false))...)
	}
	if s.Namespace == "" {
		return append(errs, field.Required(at.Child("namespace"), "must specify namespace for service account"))
	}
	return append(errs, kind.Invalid(at.Child("namespace"), s.Namespace, validation.ValidateNamespaceName(s.Namespace, false))...)
}

func wildcard(values []string) bool { return slices.Contains(values, "*") }

func validateVerbs(values []string, at *field.Path) field.ErrorList {
	switch {
	case len(values) == 0:
		return field.ErrorList{field.Required(at, "verbs must contain at least one value")}
	case wildcard(values):
		if len(values) > 1 {
			return field.ErrorList{field.Invalid(at, values, "if '*' is present, must not specify other verbs")}
		}
		return nil
	}
	for _, v := range values {
		if !slices.Contains(verbs, v) {
			return field.ErrorList{field.NotSupported(at, values, verbs)}
		}
	}
	return nil
}

func validateURLs(urls []string, at *field.Path) field.ErrorList {
	if len(urls) == 0 {
		return field.ErrorList{field.Required(at, "nonResourceURLs must contain at least one value")}
	}
	if wildcard(urls) {
		if len(urls) > 1 {
			return field.ErrorList{field.Invalid(at, urls, "if '*' is present, must not specify other non-resource URLs")}
		}
		return nil
	}
	var errs field.ErrorList
	for i, url := range urls {
		if wrong := wrongURL(url); wrong != "" {
			errs = append(errs, field.Invalid(at.Index(i), url, wrong))
		}
	}
	return errs
}

func wrongURL(url string) string {
	stars := strings.Count(url, "*")
	switch {
	case url == "":
		return "must not be empty"
	case url == "/":
		return ""
	case url[0] != '/':
		return "must start with slash"
	case strings.Contains(url, " "):
		return "must not contain white-space"
	case strings.Contains(url, "//"):
		return "must not contain double slash"
	case stars > 1 || (stars == 1 && !strings.HasSuffix(url, "/*")):
		return "wildcard can only do suffix matching"
	}
	return ""
}

func validateResourceRule(r *flowcontrolv1.ResourcePolicyRule, at *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, at.Child("verbs"))
	for _, list := range []struct {
		values             []string
		name, one, several string
	}{
		{r.APIGroups, "apiGroups", "api group", "api groups"},
		{r.Resources, "resources", "resource", "resources"},
	} {
		if len(list.values) == 0 {
			errs = append(errs, field.Required(at.Child(list.name), "resource rules must supply at least one "+list.one))
		} else if len(list.values) > 1 && wildcard(list.values) {
			errs = append(errs, field.Invalid(at.Child(list.name), list.values, "if '*' is present, must not specify other "+list.several))
		}
	}
	namespaces := at.Child("namespaces")
	switch {
	case len(r.Namespaces) == 0 && !r.ClusterScope:
		errs = append(errs, field.Required(namespaces, "resource rules that are not cluster scoped must supply at least one namespace"))
	case wildcard(r.Namespaces):
		if len(r.Namespaces) > 1 {
			errs = append(errs, field.Invalid(namespaces, r.Namespaces, "if '*' is present, must not specify other namespaces"))
		}
	default:
		for i, ns := range r.Namespaces {
			for _, m := range validation.ValidateNamespaceName(ns, false) {
				errs = append(errs, field.Invalid(namespaces.Index(i), ns, "each member of this list must be '*' or a DNS-1123 label; "+m))
			}
		}
	}
	return errs
}

// validateConditions wants each condition to have a type of its own.
func validateConditions(types []string) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("status", "conditions")
	for i, t := range types {
		if slices.Contains(types[:i], t) {
			errs = append(errs, field.Duplicate(at.Index(i).Child("type"), t))
		}
		if t == "" {
			errs = append(errs, field.Required(at.Index(i).Child("type"), "must not be empty"))
		}
	}
	return errs
}

func validateSchemaStatus(s *flowcontrolv1.FlowSchema) field.ErrorList {
	var types []string
	for _, c := range s.Status.Conditions {
		types = append(types, string(c.Type))
	}
	return validateConditions(types)
}

func validateLevelStatus(p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	var types []string
	for _, c := range p.Status.Conditions {
		types = append(types, string(c.Type))
	}
	return validateConditions(types)
}

func validateLevel(p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	at, spec := field.NewPath("spec"), &p.Spec
	var errs field.ErrorList
	exempt := spec.Type == flowcontrolv1.PriorityLevelEnablementExempt
	if (p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != exempt {
		errs = append(errs, field.Invalid(at.Child("type"), spec.Type, "must be 'Exempt' if and only if `name` is 'exempt'"))
	}
	switch spec.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if spec.Limited != nil {
			errs = append(errs, field.Forbidden(at.Child("limited"), "must be nil if the type is not Limited"))
		}
		if e := spec.Exempt; e != nil {
			errs = append(errs, validateShares(e.NominalConcurrencyShares, e.LendablePercent, at.Child("exempt"))...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if spec.Exempt != nil {
			errs = append(errs, field.Forbidden(at.Child("exempt"), "must be nil if the type is Limited"))
		}
		if spec.Limited == nil {
			errs = append(errs, field.Required(at.Child("limited"), ""))
		} else {
			errs = append(errs, validateLimited(spec.Limited, at.Child("limited"))...)
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("type"), spec.Type,
			[]flowcontrolv1.PriorityLevelEnablement{flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited}))
	}
	for _, fixed := range bootstrap.MandatoryPriorityLevelConfigurations {
		if fixed.Name != p.Name {
			continue
		}
		want := fixed.Spec.DeepCopy()
		if exempt && spec.Exempt != nil { // the one thing that may be set
			want.Exempt = spec.Exempt
		}
		if !apiequality.Semantic.DeepEqual(*spec, *want) {
			errs = append(errs, field.Invalid(at, *spec, fmt.Sprintf("spec of '%s' must equal the fixed value", p.Name)))
		}
	}
	return append(errs, validateLevelStatus(p)...)
}

func validateShares(shares, lendable *int32, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if shares != nil && *shares < 0 {
		errs = append(errs, field.Invalid(at.Child("nominalConcurrencyShares"), *shares, "must be a non-negative integer"))
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		errs = append(errs, field.Invalid(at.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive"))
	}
	return errs
}

func validateLimited(l *flowcontrolv1.LimitedPriorityLevelConfiguration, at *field.Path) field.ErrorList {
	errs := validateShares(l.NominalConcurrencyShares, nil, at)
	response := at.Child("limitResponse")
	switch q := l.LimitResponse.Queuing; l.LimitResponse.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if q != nil {
			errs = append(errs, field.Forbidden(response.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited"))
		}
	case flowcontrolv1.LimitResponseTypeQueue:
		if q == nil {
			errs = append(errs, field.Required(response.Child("queuing"), ""))
		} else {
			errs = append(errs, validateQueuing(q, response.Child("queuing"))...)
		}
	default:
		errs = append(errs, field.NotSupported(response.Child("type"), l.LimitResponse.Type,
			[]flowcontrolv1.LimitResponseType{flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject}))
	}
	errs = append(errs, validateShares(nil, l.LendablePercent, at)...)
	if p := l.BorrowingLimitPercent; p != nil && *p < 0 {
		errs = append(errs, field.Invalid(at.Child("borrowingLimitPercent"), *p, "if specified, must be a non-negative integer"))
	}
	return errs
}

func validateQueuing(q *flowcontrolv1.QueuingConfiguration, at *field.Path) field.ErrorList {
	const maxQueues = 10_000_000
	var errs field.ErrorList
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(at.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	if q.Queues <= 0 {
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, "must be positive"))
	} else if q.Queues > maxQueues {
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	hand := at.Child("handSize")
	if q.HandSize <= 0 {
		errs = append(errs, field.Invalid(hand, q.HandSize, "must be positive"))
	} else if q.HandSize > q.Queues {
		errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	} else if bits := shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)); bits > shufflesharding.MaxHashBits {
		errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, shufflesharding.MaxHashBits)))
	}
	return errs
}
