package autoscaling

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func horizontalPodAutoscalers() kind.Definition {
	doc := autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()
	return &kind.Kind[*autoscalingv2.HorizontalPodAutoscaler]{
		Resource: "horizontalpodautoscalers", Singular: "horizontalpodautoscaler", ShortNames: []string{"hpa"}, Categories: []string{"all"},
		New:        func() *autoscalingv2.HorizontalPodAutoscaler { return &autoscalingv2.HorizontalPodAutoscaler{} },
		NewList:    func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} },
		Default:    defaultAutoscaler,
		Generation: func(h *autoscalingv2.HorizontalPodAutoscaler) any { return h.Spec },
		Validate: func(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
			return validateAutoscaler(h, validateScaled)
		},
		ValidateUpdate: func(h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
			target := validateScaled
			if now, was := h.Spec.ScaleTargetRef, old.Spec.ScaleTargetRef; now.APIVersion == was.APIVersion && now.Kind == was.Kind {
				target = validateReference // what was once accepted may stay
			}
			return validateAutoscaler(h, target)
		},
		Status: &kind.Status[*autoscalingv2.HorizontalPodAutoscaler]{Validate: func(h, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
			return kind.Counts(field.NewPath("status"),
				kind.Count{Name: "currentReplicas", N: int64(h.Status.CurrentReplicas)},
				kind.Count{Name: "desiredReplicas", N: int64(h.Status.DesiredReplicas)})
		}},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Reference", doc["scaleTargetRef"]),
			kind.Column("Targets", doc["metrics"]),
			kind.Column("MinPods", doc["minReplicas"]),
			kind.Column("MaxPods", doc["maxReplicas"]),
			kind.Column("Replicas", autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()["currentReplicas"]),
			kind.AgeColumn,
		},
		Cells: func(h *autoscalingv2.HorizontalPodAutoscaler) []any {
			least := "<unset>"
			if h.Spec.MinReplicas != nil {
				least = fmt.Sprint(*h.Spec.MinReplicas)
			}
			return []any{
				h.Name, fmt.Sprintf("%s/%s", h.Spec.ScaleTargetRef.Kind, h.Spec.ScaleTargetRef.Name), targets(h),
				least, int64(h.Spec.MaxReplicas), int64(h.Status.CurrentReplicas), kind.Age(h.CreationTimestamp),
			}
		},
	}
}

func defaultAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	s := &h.Spec
	kind.SetDefaultPtr(&s.MinReplicas, 1)
	if len(s.Metrics) == 0 {
		usage := int32(80)
		s.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &usage},
			},
		}}
	}
	b := s.Behavior
	if b == nil || (b.ScaleUp == nil && b.ScaleDown == nil) {
		return
	}
	most := autoscalingv2.MaxChangePolicySelect
	b.ScaleUp = withRules(b.ScaleUp, autoscalingv2.HPAScalingRules{
		StabilizationWindowSeconds: new(int32), SelectPolicy: &most,
		Policies: []autoscalingv2.HPAScalingPolicy{
			{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
			{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
		},
	})
	b.ScaleDown = withRules(b.ScaleDown, autoscalingv2.HPAScalingRules{
		SelectPolicy: &most,
		Policies:     []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}},
	})
}

// withRules completes rules by defaults.
func withRules(r *autoscalingv2.HPAScalingRules, defaults autoscalingv2.HPAScalingRules) *autoscalingv2.HPAScalingRules {
	if r == nil {
		return &defaults
	}
	if r.StabilizationWindowSeconds == nil {
		r.StabilizationWindowSeconds = defaults.StabilizationWindowSeconds
	}
	if r.SelectPolicy == nil {
		policy := *defaults.SelectPolicy
		r.SelectPolicy = &policy
	}
	if r.Policies == nil {
		r.Policies = defaults.Policies
	}
	return r
}

// validateAutoscaler checks what an autoscaler aims at and by which measures.
func validateAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler, target func(autoscalingv2.CrossVersionObjectReference, *field.Path) field.ErrorList) field.ErrorList {
	at, s := field.NewPath("spec"), &h.Spec
	var errs field.ErrorList
	if n := kind.Or(s.MinReplicas, 1); n < 0 {
		errs = append(errs, field.Invalid(at.Child("minReplicas"), n, "must be greater than or equal to 0"))
	}
	if s.MaxReplicas < 0 {
		errs = append(errs, field.Invalid(at.Child("maxReplicas"), s.MaxReplicas, "must be greater than 0"))
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		errs = append(errs, field.Invalid(at.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, target(s.ScaleTargetRef, at.Child("scaleTargetRef"))...)
	for i := range s.Metrics {
		errs = append(errs, validateMetric(&s.Metrics[i], at.Child("metrics").Index(i))...)
	}
	if kind.Or(s.MinReplicas, 1) == 0 && !slices.ContainsFunc(s.Metrics, func(m autoscalingv2.MetricSpec) bool {
		return m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	}) {
		errs = append(errs, field.Forbidden(at.Child("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	if b := s.Behavior; b != nil {
		errs = append(errs, validateRules(b.ScaleUp, at.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateRules(b.ScaleDown, at.Child("behavior", "scaleDown"))...)
	}
	if s.MaxReplicas == 0 {
		errs = append(errs, field.Required(at.Child("maxReplicas"), ""))
	}
	return errs
}

func validateReference(r autoscalingv2.CrossVersionObjectReference, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, part := range []struct{ name, value string }{{"kind", r.Kind}, {"name", r.Name}} {
		if part.value == "" {
			errs = append(errs, field.Required(at.Child(part.name), ""))
		} else {
			errs = append(errs, kind.Invalid(at.Child(part.name), part.value, path.IsValidPathSegmentName(part.value))...)
		}
	}
	return errs
}

// validateScaled checks what is scaled: of the core group, that is only one kind.
func validateScaled(r autoscalingv2.CrossVersionObjectReference, at *field.Path) field.ErrorList {
	errs := validateReference(r, at)
	gv, err := schema.ParseGroupVersion(r.APIVersion)
	if err == nil && gv.Group == "" && r.Kind != "ReplicationController" {
		err = errors.New("apiVersion must specify API group")
	}
	if err != nil {
		errs = append(errs, field.Invalid(at.Child("apiVersion"), r.APIVersion, err.Error()))
	}
	return errs
}

func validateMetric(m *autoscalingv2.MetricSpec, at *field.Path) field.ErrorList {
	sources := []struct {
		kind   autoscalingv2.MetricSourceType
		child  string
		isSet  bool
		target func() *autoscalingv2.MetricTarget
		name   func() string
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func() *autoscalingv2.MetricTarget { return &m.Object.Target }, func() string { return m.Object.Metric.Name }},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func() *autoscalingv2.MetricTarget { return &m.Pods.Target }, func() string { return m.Pods.Metric.Name }},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func() *autoscalingv2.MetricTarget { return &m.Resource.Target }, func() string { return string(m.Resource.Name) }},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func() *autoscalingv2.MetricTarget { return &m.ContainerResource.Target }, func() string { return string(m.ContainerResource.Name) }},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func() *autoscalingv2.MetricTarget { return &m.External.Target }, func() string { return m.External.Metric.Name }},
	}
	var errs field.ErrorList
	if m.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric source type"))
	}
	known := false
	var names []autoscalingv2.MetricSourceType
	for _, s := range sources {
		names = append(names, s.kind)
		to := at.Child(s.child)
		switch {
		case s.kind != m.Type && s.isSet:
			errs = append(errs, field.Forbidden(to, "must be empty if type is not "+string(s.kind)))
		case s.kind == m.Type:
			known = true
			if !s.isSet {
				errs = append(errs, field.Required(to, "must populate information for the given metric source"))
				continue
			}
			nameAt, what, least := to.Child("name"), "resource", "averageUtilization"
			if s.kind != autoscalingv2.ResourceMetricSourceType && s.kind != autoscalingv2.ContainerResourceMetricSourceType {
				nameAt, what, least = to.Child("metric", "name"), "metric", "averageValue"
			}
			if s.name() == "" {
				errs = append(errs, field.Required(nameAt, "must specify a "+what+" name"))
			}
			if m.ContainerResource != nil && m.ContainerResource.Container == "" {
				errs = append(errs, field.Required(to.Child("container"), "must specify a container"))
			}
			errs = append(errs, validateTarget(s.target(), to.Child("target"), least)...)
		}
	}
	if m.Type != "" && !known {
		slices.Sort(names)
		errs = append(errs, field.NotSupported(at.Child("type"), m.Type, names))
	}
	return errs
}

// validateTarget checks what a measure should be; least is the field that is missing
// when there is none.
func validateTarget(t *autoscalingv2.MetricTarget, at *field.Path, least string) field.ErrorList {
	errs := kind.OneOf(t.Type, at.Child("type"), autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType)
	if t.Value != nil && t.Value.Sign() != 1 {
		errs = append(errs, field.Invalid(at.Child("value"), t.Value, "must be positive"))
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		errs = append(errs, field.Invalid(at.Child("averageValue"), t.AverageValue, "must be positive"))
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		errs = append(errs, field.Invalid(at.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0"))
	}
	if t.Value == nil && t.AverageValue == nil && t.AverageUtilization == nil {
		errs = append(errs, field.Required(at.Child(least), "must set either a target raw value or a target utilization"))
	}
	return errs
}

func validateRules(r *autoscalingv2.HPAScalingRules, at *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	if w := r.StabilizationWindowSeconds; w != nil {
		if *w < 0 {
			errs = append(errs, field.Invalid(at.Child("stabilizationWindowSeconds"), *w, "must be greater than or equal to zero"))
		}
		if *w > 3600 {
			errs = append(errs, field.Invalid(at.Child("stabilizationWindowSeconds"), *w, "must be less than or equal to 3600"))
		}
	}
	if r.SelectPolicy != nil {
		errs = append(errs, kind.Supported(*r.SelectPolicy, at.Child("selectPolicy"), autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	}
	if t := r.Tolerance; t != nil && t.Sign() < 0 {
		errs = append(errs, field.Invalid(at.Child("tolerance"), t.String(), "must be greater than or equal to 0"))
	}
	policies := at.Child("policies")
	if len(r.Policies) == 0 && r.Tolerance == nil {
		errs = append(errs, field.Required(policies, "must specify at least one Policy"))
	}
	for i, p := range r.Policies {
		to := policies.Index(i)
		errs = append(errs, kind.Supported(p.Type, to.Child("type"), autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)...)
		if p.Value <= 0 {
			errs = append(errs, field.Invalid(to.Child("value"), p.Value, "must be greater than zero"))
		}
		if p.PeriodSeconds <= 0 {
			errs = append(errs, field.Invalid(to.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero"))
		}
		if p.PeriodSeconds > 1800 {
			errs = append(errs, field.Invalid(to.Child("periodSeconds"), p.PeriodSeconds, "must be less than or equal to 1800"))
		}
	}
	return errs
}

// targets writes what is measured beside what is wanted.
func targets(h *autoscalingv2.HorizontalPodAutoscaler) string {
	if len(h.Spec.Metrics) == 0 {
		return "<none>"
	}
	var out []string
	for i, m := range h.Spec.Metrics {
		var target *autoscalingv2.MetricTarget
		name := ""
		switch {
		case m.Object != nil:
			target = &m.Object.Target
		case m.Pods != nil:
			target = &m.Pods.Target
		case m.Resource != nil:
			target, name = &m.Resource.Target, string(m.Resource.Name)+": "
		case m.ContainerResource != nil:
			target, name = &m.ContainerResource.Target, string(m.ContainerResource.Name)+": "
		case m.External != nil:
			target = &m.External.Target
		default:
			out = append(out, "<unknown type>")
			continue
		}
		var now autoscalingv2.MetricValueStatus
		if i < len(h.Status.CurrentMetrics) {
			now = current(&h.Status.CurrentMetrics[i])
		}
		out = append(out, name+value(now, target))
		if len(out) == 2 && len(h.Spec.Metrics) > 2 {
			return fmt.Sprintf("%s + %d more...", strings.Join(out, ", "), len(h.Spec.Metrics)-2)
		}
	}
	return strings.Join(out, ", ")
}

func current(s *autoscalingv2.MetricStatus) autoscalingv2.MetricValueStatus {
	switch {
	case s.Object != nil:
		return s.Object.Current
	case s.Pods != nil:
		return s.Pods.Current
	case s.Resource != nil:
		return s.Resource.Current
	case s.ContainerResource != nil:
		return s.ContainerResource.Current
	case s.External != nil:
		return s.External.Current
	}
	return autoscalingv2.MetricValueStatus{}
}

func value(now autoscalingv2.MetricValueStatus, t *autoscalingv2.MetricTarget) string {
	quantity := func(q *resource.Quantity) string {
		if q == nil {
			return "<unknown>"
		}
		return q.String()
	}
	switch {
	case t.AverageValue != nil:
		return quantity(now.AverageValue) + "/" + t.AverageValue.String() + " (avg)"
	case t.AverageUtilization != nil:
		has := "<unknown>"
		if now.AverageUtilization != nil {
			has = fmt.Sprintf("%d%%", *now.AverageUtilization)
		}
		return fmt.Sprintf("%s/%d%%", has, *t.AverageUtilization)
	case t.Value != nil:
		return quantity(now.Value) + "/" + t.Value.String()
	}
	return "<unknown>/<auto>"
}
