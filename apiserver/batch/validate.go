package batch

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/core"
	"kontiki/apiserver/kind"
)

// Upstream's bounds of indexed Jobs.
const (
	maxIndexedParallelism = 100_000
	maxCompletions        = 100_000 // above this with a backoff limit per index
	maxLargeParallelism   = 10_000
	maxRules              = 20
	maxExitCodes          = 255
	maxPatterns           = 20
)

var spec = field.NewPath("spec")

func validateJob(j *batchv1.Job) field.ErrorList {
	errs := validateGeneratedSelector(j)
	errs = append(errs, validateJobSpec(&j.Spec, spec)...)
	errs = append(errs, validateJobSelector(&j.Spec)...)
	if kind.Or(j.Spec.CompletionMode, "") == batchv1.IndexedCompletion && kind.Or(j.Spec.Completions, 0) > 0 {
		// Pods of an indexed Job are called by its name and their index.
		last := fmt.Sprintf("%s-%d", j.Name, *j.Spec.Completions-1)
		if len(utilvalidation.IsDNS1123Label(last)) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+last))
		}
	}
	return errs
}

// validateGeneratedSelector refuses labels and selectors of the creator's that
// stand where the generated ones should.
func validateGeneratedSelector(j *batchv1.Job) field.ErrorList {
	if kind.Or(j.Spec.ManualSelector, false) || j.Spec.Selector == nil {
		return nil
	}
	var errs field.ErrorList
	if j.UID == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "uid"), ""))
	}
	want := map[string]string{}
	at := spec.Child("template", "metadata", "labels")
	for _, l := range []struct{ label, value string }{
		{oldUIDLabel, string(j.UID)}, {oldNameLabel, j.Name},
		{batchv1.ControllerUidLabel, string(j.UID)}, {batchv1.JobNameLabel, j.Name},
	} {
		want[l.label] = l.value
		switch got, ok := j.Spec.Template.Labels[l.label]; {
		case !ok:
			errs = append(errs, field.Required(at.Key(l.label), fmt.Sprintf("must be '%s'", l.value)))
		case got != l.value:
			errs = append(errs, field.Invalid(at.Key(l.label), j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", l.value)))
		}
	}
	if s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !s.Matches(labels.Set(want)) {
		errs = append(errs, field.Invalid(spec.Child("selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

func validateJobSelector(s *batchv1.JobSpec) field.ErrorList {
	at := spec.Child("selector")
	if s.Selector == nil {
		return field.ErrorList{field.Required(at, ""), field.Invalid(spec.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`")}
	}
	errs := unversioned.ValidateLabelSelector(s.Selector, unversioned.LabelSelectorValidationOptions{}, at)
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(spec.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	return errs
}

// validateJobSpec checks what Jobs and templates of Jobs share.
func validateJobSpec(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	count := func(v *int32, name string) {
		if v != nil {
			errs = append(errs, validation.ValidateNonnegativeField(int64(*v), at.Child(name))...)
		}
	}
	count(s.Parallelism, "parallelism")
	count(s.Completions, "completions")
	if s.ActiveDeadlineSeconds != nil {
		errs = append(errs, validation.ValidateNonnegativeField(*s.ActiveDeadlineSeconds, at.Child("activeDeadlineSeconds"))...)
	}
	count(s.BackoffLimit, "backoffLimit")
	count(s.TTLSecondsAfterFinished, "ttlSecondsAfterFinished")
	count(s.BackoffLimitPerIndex, "backoffLimitPerIndex")
	count(s.MaxFailedIndexes, "maxFailedIndexes")
	errs = append(errs, validateCompletionMode(s, at)...)
	if s.ManagedBy != nil {
		to := at.Child("managedBy")
		errs = append(errs, utilvalidation.IsDomainPrefixedPath(to, *s.ManagedBy)...)
		if len(*s.ManagedBy) > 63 {
			errs = append(errs, field.TooLong(to, "" /*unused*/, 63))
		}
	}
	errs = append(errs, validateFailurePolicy(s, at.Child("podFailurePolicy"))...)
	errs = append(errs, validateSuccessPolicy(s, at.Child("successPolicy"))...)
	errs = append(errs, validateReplacement(s, at.Child("podReplacementPolicy"))...)
	errs = append(errs, core.ValidatePodTemplate(&s.Template, at.Child("template"))...)
	policy, to := s.Template.Spec.RestartPolicy, at.Child("template", "spec", "restartPolicy")
	switch {
	case policy == corev1.RestartPolicyAlways || policy == "":
		errs = append(errs, field.Required(to, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)))
	case policy != corev1.RestartPolicyOnFailure && policy != corev1.RestartPolicyNever:
		errs = append(errs, field.NotSupported(to, policy, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	case s.PodFailurePolicy != nil && policy != corev1.RestartPolicyNever:
		errs = append(errs, field.Invalid(to, policy, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever)))
	}
	return errs
}

func validateCompletionMode(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	mode := kind.Or(s.CompletionMode, "")
	if s.CompletionMode != nil && mode != batchv1.NonIndexedCompletion && mode != batchv1.IndexedCompletion {
		errs = append(errs, field.NotSupported(at.Child("completionMode"), mode, []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion}))
	}
	indexed := mode == batchv1.IndexedCompletion
	parallel := kind.Or(s.Parallelism, 0)
	if indexed && s.Completions == nil {
		errs = append(errs, field.Required(at.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion)))
	}
	if indexed && parallel > maxIndexedParallelism {
		errs = append(errs, field.Invalid(at.Child("parallelism"), parallel, fmt.Sprintf("must be less than or equal to %d when completion mode is %s", maxIndexedParallelism, batchv1.IndexedCompletion)))
	}
	if s.BackoffLimitPerIndex != nil && !indexed {
		errs = append(errs, field.Invalid(at.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode"))
	}
	completions := kind.Or(s.Completions, 0)
	if m := s.MaxFailedIndexes; m != nil {
		if s.BackoffLimitPerIndex == nil {
			errs = append(errs, field.Required(at.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
		}
		if !indexed {
			errs = append(errs, field.Invalid(at.Child("maxFailedIndexes"), *m, "requires indexed completion mode"))
		}
		if indexed && *m > completions {
			errs = append(errs, field.Invalid(at.Child("maxFailedIndexes"), *m, "must be less than or equal to completions"))
		}
		if *m > maxIndexedParallelism {
			errs = append(errs, field.Invalid(at.Child("maxFailedIndexes"), *m, fmt.Sprintf("must be less than or equal to %d", maxIndexedParallelism)))
		}
	}
	if s.BackoffLimitPerIndex != nil && completions > maxCompletions {
		if s.MaxFailedIndexes == nil {
			errs = append(errs, field.Required(at.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", maxCompletions)))
		} else if *s.MaxFailedIndexes > maxLargeParallelism {
			errs = append(errs, field.Invalid(at.Child("maxFailedIndexes"), *s.MaxFailedIndexes, fmt.Sprintf("must be less than or equal to %d when completions are above %d and used with backoff limit per index", maxLargeParallelism, maxCompletions)))
		}
		if parallel > maxLargeParallelism {
			errs = append(errs, field.Invalid(at.Child("parallelism"), parallel, fmt.Sprintf("must be less than or equal to %d when completions are above %d and used with backoff limit per index", maxLargeParallelism, maxCompletions)))
		}
	}
	return errs
}

func validateReplacement(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	if s.PodReplacementPolicy == nil {
		return nil
	}
	if s.PodFailurePolicy != nil {
		return kind.Supported(*s.PodReplacementPolicy, at, batchv1.Failed)
	}
	return kind.Supported(*s.PodReplacementPolicy, at, batchv1.Failed, batchv1.TerminatingOrFailed)
}

func validateFailurePolicy(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	if s.PodFailurePolicy == nil {
		return nil
	}
	var errs field.ErrorList
	rules := at.Child("rules")
	if len(s.PodFailurePolicy.Rules) > maxRules {
		errs = append(errs, field.TooMany(rules, len(s.PodFailurePolicy.Rules), maxRules))
	}
	names := map[string]bool{}
	for _, c := range slices.Concat(s.Template.Spec.Containers, s.Template.Spec.InitContainers) {
		names[c.Name] = true
	}
	actions := []batchv1.PodFailurePolicyAction{batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore}
	for i, rule := range s.PodFailurePolicy.Rules {
		to := rules.Index(i)
		if rule.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
			errs = append(errs, field.Invalid(to.Child("action"), rule.Action, "requires the backoffLimitPerIndex to be set"))
		}
		errs = append(errs, kind.OneOf(rule.Action, to.Child("action"), actions...)...)
		if rule.OnExitCodes != nil {
			errs = append(errs, validateExitCodes(rule.OnExitCodes, names, to.Child("onExitCodes"))...)
		}
		if len(rule.OnPodConditions) > maxPatterns {
			errs = append(errs, field.TooMany(to.Child("onPodConditions"), len(rule.OnPodConditions), maxPatterns))
		}
		for j, c := range rule.OnPodConditions {
			on := to.Child("onPodConditions").Index(j)
			errs = append(errs, kind.Invalid(on.Child("type"), c.Type, utilvalidation.IsQualifiedName(string(c.Type)))...)
			errs = append(errs, kind.OneOf(c.Status, on.Child("status"), corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
		}
		switch hasCodes, hasConditions := rule.OnExitCodes != nil, len(rule.OnPodConditions) > 0; {
		case hasCodes && hasConditions:
			errs = append(errs, field.Invalid(to, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
		case !hasCodes && !hasConditions:
			errs = append(errs, field.Invalid(to, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
		}
	}
	return errs
}

func validateExitCodes(r *batchv1.PodFailurePolicyOnExitCodesRequirement, names map[string]bool, at *field.Path) field.ErrorList {
	errs := kind.OneOf(r.Operator, at.Child("operator"), batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if r.ContainerName != nil && !names[*r.ContainerName] {
		errs = append(errs, field.Invalid(at.Child("containerName"), *r.ContainerName, "must be one of the container or initContainer names in the pod template"))
	}
	values := at.Child("values")
	switch {
	case len(r.Values) == 0:
		errs = append(errs, field.Invalid(values, r.Values, "at least one value is required"))
	case len(r.Values) > maxExitCodes:
		errs = append(errs, field.TooMany(values, len(r.Values), maxExitCodes))
	}
	sorted, seen := true, map[int32]bool{}
	for i, v := range r.Values {
		if r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
			errs = append(errs, field.Invalid(values.Index(i), v, "must not be 0 for the In operator"))
		}
		if seen[v] {
			errs = append(errs, field.Duplicate(values.Index(i), v))
		}
		seen[v] = true
		sorted = sorted && (i == 0 || r.Values[i-1] <= v)
	}
	if !sorted {
		errs = append(errs, field.Invalid(values, r.Values, "must be ordered"))
	}
	return errs
}

func validateSuccessPolicy(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	if s.SuccessPolicy == nil {
		return nil
	}
	var errs field.ErrorList
	if kind.Or(s.CompletionMode, "") != batchv1.IndexedCompletion {
		errs = append(errs, field.Invalid(at, *s.SuccessPolicy, "requires indexed completion mode"))
		return errs
	}
	rules := at.Child("rules")
	if len(s.SuccessPolicy.Rules) == 0 {
		return append(errs, field.Required(rules, "at least one rules must be specified when the successPolicy is specified"))
	}
	if len(s.SuccessPolicy.Rules) > maxRules {
		errs = append(errs, field.TooMany(rules, len(s.SuccessPolicy.Rules), maxRules))
	}
	for i, r := range s.SuccessPolicy.Rules {
		to := rules.Index(i)
		if r.SucceededCount == nil && r.SucceededIndexes == nil {
			errs = append(errs, field.Required(to, "at least one of succeededCount or succeededIndexes must be specified"))
		}
		n := kind.Or(s.Completions, 0)
		if r.SucceededIndexes != nil {
			total, err := indexesOf(*r.SucceededIndexes, kind.Or(s.Completions, 0))
			if err != nil {
				errs = append(errs, field.Invalid(to.Child("succeededIndexes"), *r.SucceededIndexes, "error parsing succeededIndexes: "+err.Error()))
			}
			n = total
		}
		if c := r.SucceededCount; c != nil {
			errs = append(errs, validation.ValidateNonnegativeField(int64(*c), to.Child("succeededCount"))...)
			if *c > kind.Or(s.Completions, 0) {
				errs = append(errs, field.Invalid(to.Child("succeededCount"), *c, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", kind.Or(s.Completions, 0))))
			}
			if r.SucceededIndexes != nil && *c > n {
				errs = append(errs, field.Invalid(to.Child("succeededCount"), *c, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", n)))
			}
		}
	}
	return errs
}

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	s, was := &j.Spec, &old.Spec
	errs := validateJobSpec(s, spec)
	errs = append(errs, validateJobSelector(s)...)
	errs = append(errs, validateCompletionsUpdate(s, was)...)
	fixed := func(now, before any, name string) {
		errs = append(errs, validation.ValidateImmutableField(now, before, spec.Child(name))...)
	}
	fixed(s.Selector, was.Selector, "selector")
	errs = append(errs, validateTemplateUpdate(j, old)...)
	fixed(s.CompletionMode, was.CompletionMode, "completionMode")
	fixed(s.PodFailurePolicy, was.PodFailurePolicy, "podFailurePolicy")
	fixed(s.BackoffLimitPerIndex, was.BackoffLimitPerIndex, "backoffLimitPerIndex")
	fixed(s.ManagedBy, was.ManagedBy, "managedBy")
	fixed(s.SuccessPolicy, was.SuccessPolicy, "successPolicy")
	return errs
}

// validateCompletionsUpdate lets an indexed Job grow and shrink, as long as it
// runs all of its indexes at once.
func validateCompletionsUpdate(s, was *batchv1.JobSpec) field.ErrorList {
	at := spec.Child("completions")
	if kind.Or(s.CompletionMode, "") != batchv1.IndexedCompletion {
		return validation.ValidateImmutableField(s.Completions, was.Completions, at)
	}
	if apiequality.Semantic.DeepEqual(s.Completions, was.Completions) {
		return nil
	}
	if s.Completions == nil {
		return field.ErrorList{field.Required(at, fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion))}
	}
	if *s.Completions != kind.Or(s.Parallelism, 0) {
		return field.ErrorList{field.Invalid(at, *s.Completions, fmt.Sprintf("can only be modified in tandem with %s", spec.Child("parallelism")))}
	}
	return nil
}

// validateTemplateUpdate lets queueing systems say where the pods of a Job go
// that is suspended and has not begun.
func validateTemplateUpdate(j, old *batchv1.Job) field.ErrorList {
	now, was := &j.Spec.Template, old.Spec.Template.DeepCopy()
	if kind.Or(old.Spec.Suspend, false) && old.Status.StartTime == nil {
		was.Annotations, was.Labels = now.Annotations, now.Labels
		was.Spec.Affinity, was.Spec.NodeSelector = now.Spec.Affinity, now.Spec.NodeSelector
		was.Spec.Tolerations, was.Spec.SchedulingGates = now.Spec.Tolerations, now.Spec.SchedulingGates
	}
	return validation.ValidateImmutableField(*now, *was, spec.Child("template"))
}

func validateJobStatus(j, old *batchv1.Job) field.ErrorList {
	at, s := field.NewPath("status"), &j.Status
	errs := kind.Counts(at,
		kind.Count{Name: "active", N: int64(s.Active)}, kind.Count{Name: "succeeded", N: int64(s.Succeeded)},
		kind.Count{Name: "failed", N: int64(s.Failed)}, kind.Count{Name: "ready", N: int64(kind.Or(s.Ready, 0))},
		kind.Count{Name: "terminating", N: int64(kind.Or(s.Terminating, 0))})
	if u := s.UncountedTerminatedPods; u != nil {
		seen := map[string]bool{}
		for _, ids := range []struct {
			name string
			n    int
			id   func(int) string
		}{
			{"succeeded", len(u.Succeeded), func(i int) string { return string(u.Succeeded[i]) }},
			{"failed", len(u.Failed), func(i int) string { return string(u.Failed[i]) }},
		} {
			for i := range ids.n {
				to, id := at.Child("uncountedTerminatedPods", ids.name).Index(i), ids.id(i)
				if id == "" {
					errs = append(errs, field.Invalid(to, id, "must not be empty"))
				} else if seen[id] {
					errs = append(errs, field.Duplicate(to, id))
				}
				seen[id] = true
			}
		}
	}
	complete, failed := hasCondition(s, batchv1.JobComplete), hasCondition(s, batchv1.JobFailed)
	if complete && failed {
		errs = append(errs, field.Invalid(at.Child("conditions"), field.OmitValueType{}, "cannot set Complete=True and Failed=true conditions"))
	}
	if s.CompletionTime != nil && !complete {
		errs = append(errs, field.Invalid(at.Child("completionTime"), s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
	}
	for _, t := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if hasCondition(&old.Status, t) && !hasCondition(s, t) {
			errs = append(errs, field.Invalid(at.Child("conditions"), field.OmitValueType{}, fmt.Sprintf("cannot disable the terminal %s=True condition", t)))
		}
	}
	return errs
}

func hasCondition(s *batchv1.JobStatus, t batchv1.JobConditionType) bool {
	return slices.ContainsFunc(s.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == t && c.Status == corev1.ConditionTrue
	})
}
