// Package access is the API groups authorization.k8s.io and
// authentication.k8s.io: questions about who somebody is and what they may do.
// Nothing in it is stored.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package access

import (
	"context"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"kontiki/apiserver/kind"
)

// AuthorizationGroup describes authorization.k8s.io.
func AuthorizationGroup(a authorizer.Authorizer, rules authorizer.RuleResolver) kind.Group {
	review := func(resource, singular string, cluster bool, create func() runtime.Object, answer func(context.Context, runtime.Object) (runtime.Object, error)) kind.Definition {
		return kind.Virtual{Resource: resource, Storage: &reviewREST{singular, cluster, create, answer}}
	}
	d := decider{a, rules}
	return kind.Group{
		Name:        authorizationv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: authorizationv1.AddToScheme,
		Kinds: map[string][]kind.Definition{"v1": {
			review("subjectaccessreviews", "subjectaccessreview", true, func() runtime.Object { return &authorizationv1.SubjectAccessReview{} }, d.subject),
			review("selfsubjectaccessreviews", "selfsubjectaccessreview", true, func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }, d.self),
			review("localsubjectaccessreviews", "localsubjectaccessreview", false, func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} }, d.local),
			review("selfsubjectrulesreviews", "selfsubjectrulesreview", true, func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} }, d.rulesOf),
		}},
	}
}

// reviewREST answers one kind of review.
type reviewREST struct {
	singular string
	cluster  bool
	create   func() runtime.Object
	answer   func(context.Context, runtime.Object) (runtime.Object, error)
}

var _ interface {
	rest.Creater
	rest.Scoper
	rest.SingularNameProvider
} = &reviewREST{}

// New implements rest.Storage.
func (r *reviewREST) New() runtime.Object { return r.create() }

// Destroy implements rest.Storage.
func (*reviewREST) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (r *reviewREST) NamespaceScoped() bool { return !r.cluster }

// GetSingularName implements rest.SingularNameProvider.
func (r *reviewREST) GetSingularName() string { return r.singular }

// Create implements rest.Creater.
func (r *reviewREST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	return r.answer(ctx, obj)
}

type decider struct {
	authorizer authorizer.Authorizer
	rules      authorizer.RuleResolver
}

func (d decider) subject(ctx context.Context, o runtime.Object) (runtime.Object, error) {
	r := o.(*authorizationv1.SubjectAccessReview)
	if errs := validateReview(&r.Spec); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview").GroupKind(), "", errs)
	}
	r.Status = d.decide(ctx, subjectOf(&r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return r, nil
}

func (d decider) local(ctx context.Context, o runtime.Object) (runtime.Object, error) {
	r := o.(*authorizationv1.LocalSubjectAccessReview)
	errs := validateReview(&r.Spec)
	spec := field.NewPath("spec")
	if r.Spec.ResourceAttributes != nil && r.Spec.ResourceAttributes.Namespace != r.Namespace {
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes", "namespace"), r.Spec.ResourceAttributes.Namespace, "must match metadata.namespace"))
	}
	if r.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), r.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview").GroupKind(), "", errs)
	}
	if ns := request.NamespaceValue(ctx); r.Spec.ResourceAttributes != nil && r.Spec.ResourceAttributes.Namespace != ns {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", ns))
	}
	r.Status = d.decide(ctx, subjectOf(&r.Spec), r.Spec.ResourceAttributes, nil)
	return r, nil
}

func (d decider) self(ctx context.Context, o runtime.Object) (runtime.Object, error) {
	r := o.(*authorizationv1.SelfSubjectAccessReview)
	if errs := oneAttributes(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview").GroupKind(), "", errs)
	}
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	r.Status = d.decide(ctx, u, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return r, nil
}

func (d decider) rulesOf(ctx context.Context, o runtime.Object) (runtime.Object, error) {
	r := o.(*authorizationv1.SelfSubjectRulesReview)
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	if r.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	resources, paths, incomplete, err := d.rules.RulesFor(ctx, u, r.Spec.Namespace)
	r.Status = authorizationv1.SubjectRulesReviewStatus{
		Incomplete: incomplete, ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{},
	}
	for _, rule := range resources {
		r.Status.ResourceRules = append(r.Status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(), Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames(),
		})
	}
	for _, rule := range paths {
		r.Status.NonResourceRules = append(r.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs()})
	}
	if err != nil {
		r.Status.EvaluationError = err.Error()
	}
	return r, nil
}

func oneAttributes(resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) field.ErrorList {
	spec := field.NewPath("spec")
	switch {
	case resource != nil && path != nil:
		return field.ErrorList{field.Invalid(spec.Child("nonResourceAttributes"), path, "cannot be specified in combination with resourceAttributes")}
	case resource == nil && path == nil:
		return field.ErrorList{field.Invalid(spec.Child("resourceAttributes"), resource, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	}
	return nil
}

func validateReview(s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := oneAttributes(s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), s.User, "at least one of user or group must be specified"))
	}
	return errs
}

func subjectOf(s *authorizationv1.SubjectAccessReviewSpec) user.Info {
	extra := map[string][]string{}
	for k, v := range s.Extra {
		extra[k] = v
	}
	return &user.DefaultInfo{Name: s.User, Groups: s.Groups, UID: s.UID, Extra: extra}
}

func (d decider) decide(ctx context.Context, u user.Info, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	attrs := authorizer.AttributesRecord{User: u}
	if resource != nil {
		attrs.Verb, attrs.Namespace, attrs.APIGroup, attrs.APIVersion = resource.Verb, resource.Namespace, resource.Group, matchAll(resource.Version)
		attrs.Resource, attrs.Subresource, attrs.Name, attrs.ResourceRequest = resource.Resource, resource.Subresource, resource.Name, true
	} else {
		attrs.Verb, attrs.Path = path.Verb, path.Path
	}
	decision, reason, err := d.authorizer.Authorize(ctx, attrs)
	status := authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason,
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}

func matchAll(version string) string {
	if version == "" {
		return "*"
	}
	return version
}
