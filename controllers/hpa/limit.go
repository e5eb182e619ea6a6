package hpa

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// Upstream's horizontal-pod-autoscaler-downscale-stabilization, and how much an
// autoscaler without behavior may grow at once.
const (
	downStabilization = 5 * time.Minute
	growthFactor      = 2
	growthAlways      = 4
)

// memory is what is known of one autoscaler from before.
type memory struct {
	recommended []moment // sizes its metrics spoke for
	up, down    []moment // how many replicas were added and taken
}

type moment struct {
	replicas int32
	at       time.Time
}

// since are the moments after a time.
func since(moments []moment, cutoff time.Time) []moment {
	return slices.DeleteFunc(slices.Clone(moments), func(m moment) bool { return !m.at.After(cutoff) })
}

func sum(moments []moment) (total int32) {
	for _, m := range moments {
		total += m.replicas
	}
	return total
}

// limit turns what the metrics speak for into what is done: it steadies it by what
// was recommended lately, and keeps it within bounds and rates. It says so in the
// conditions.
func (w *world) limit(o *outcome, wanted, least int32) int32 {
	rules := w.rules()
	steady, reason, message := w.steady(&o.memory, rules, wanted)
	if steady == wanted {
		reason, message = "ReadyForNewScale", "recommended size matches current size"
	}
	o.condition(w, autoscalingv2.AbleToScale, corev1.ConditionTrue, reason, "%s", message)
	allowed, reason, message := w.bounded(rules, steady, least)
	limited := corev1.ConditionTrue
	if allowed == steady {
		limited = corev1.ConditionFalse
	}
	o.condition(w, autoscalingv2.ScalingLimited, limited, reason, "%s", message)
	return allowed
}

// rules are the behavior with upstream's defaults filled in; nil for none given.
func (w *world) rules() *autoscalingv2.HorizontalPodAutoscalerBehavior {
	if w.hpa.Spec.Behavior == nil {
		return nil
	}
	b := w.hpa.Spec.Behavior.DeepCopy()
	fill := func(r **autoscalingv2.HPAScalingRules, window int32, policies ...autoscalingv2.HPAScalingPolicy) {
		if *r == nil {
			*r = &autoscalingv2.HPAScalingRules{}
		}
		if (*r).StabilizationWindowSeconds == nil {
			(*r).StabilizationWindowSeconds = &window
		}
		if (*r).SelectPolicy == nil {
			(*r).SelectPolicy = ptr.To(autoscalingv2.MaxChangePolicySelect)
		}
		if len((*r).Policies) == 0 {
			(*r).Policies = policies
		}
	}
	fill(&b.ScaleUp, 0, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
	fill(&b.ScaleDown, int32(downStabilization.Seconds()), autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
	return b
}

// steady is what stays within the recommendations of the stabilization windows: with
// behavior the size there is, moved only as far as all of them agree; without, the
// highest of the last minutes.
func (w *world) steady(m *memory, rules *autoscalingv2.HorizontalPodAutoscalerBehavior, wanted int32) (steady int32, reason, message string) {
	up, down := time.Duration(0), downStabilization
	if rules != nil {
		up, down = seconds(*rules.ScaleUp.StabilizationWindowSeconds), seconds(*rules.ScaleDown.StabilizationWindowSeconds)
	}
	lowest, highest := wanted, wanted
	for _, r := range since(m.recommended, w.now.Add(-up)) {
		lowest = min(lowest, r.replicas)
	}
	for _, r := range since(m.recommended, w.now.Add(-down)) {
		highest = max(highest, r.replicas)
	}
	reason, message = "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"
	steady = highest
	if rules != nil {
		steady = min(max(w.scale.Spec.Replicas, lowest), highest)
		if wanted >= w.scale.Spec.Replicas {
			reason, message = "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"
		}
	}
	m.recommended = append(since(m.recommended, w.now.Add(-max(up, down))), moment{wanted, w.now})
	return steady, reason, message
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// bounded keeps a size within its bounds and rates, and says which of them it met.
func (w *world) bounded(rules *autoscalingv2.HorizontalPodAutoscalerBehavior, wanted, least int32) (allowed int32, reason, message string) {
	current, most := w.scale.Spec.Replicas, w.hpa.Spec.MaxReplicas
	up, down := max(growthFactor*current, growthAlways), int32(math.MinInt32)
	if rules != nil {
		up = max(w.upTo(rules.ScaleUp), current)
		down = min(w.downTo(rules.ScaleDown), current)
	}
	switch {
	case wanted > min(most, up) && most > up:
		return up, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"
	case wanted > most:
		return most, "TooManyReplicas", "the desired replica count is more than the maximum replica count"
	case wanted < max(least, down) && least < down:
		return down, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"
	case wanted < least:
		return least, "TooFewReplicas", "the desired replica count is less than the minimum replica count"
	}
	return wanted, "DesiredWithinRange", "the desired count is within the acceptable range"
}

// upTo is how far the policies let the size grow now.
func (w *world) upTo(rules *autoscalingv2.HPAScalingRules) int32 {
	current := w.scale.Spec.Replicas
	if *rules.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return current
	}
	var limits []int32
	for _, p := range rules.Policies {
		start := current - sum(since(w.memory.up, w.now.Add(-seconds(p.PeriodSeconds)))) + sum(since(w.memory.down, w.now.Add(-seconds(p.PeriodSeconds))))
		if p.Type == autoscalingv2.PercentScalingPolicy {
			limits = append(limits, int32(math.Ceil(float64(start)*(1+float64(p.Value)/100))))
		} else {
			limits = append(limits, start+p.Value)
		}
	}
	if *rules.SelectPolicy == autoscalingv2.MinChangePolicySelect {
		return slices.Min(limits)
	}
	return slices.Max(limits)
}

// downTo is how far the policies let it shrink now.
func (w *world) downTo(rules *autoscalingv2.HPAScalingRules) int32 {
	current := w.scale.Spec.Replicas
	if *rules.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return current
	}
	var limits []int32
	for _, p := range rules.Policies {
		start := current - sum(since(w.memory.up, w.now.Add(-seconds(p.PeriodSeconds)))) + sum(since(w.memory.down, w.now.Add(-seconds(p.PeriodSeconds))))
		if p.Type == autoscalingv2.PercentScalingPolicy {
			limits = append(limits, int32(float64(start)*(1-float64(p.Value)/100)))
		} else {
			limits = append(limits, start-p.Value)
		}
	}
	if *rules.SelectPolicy == autoscalingv2.MinChangePolicySelect {
		return slices.Max(limits)
	}
	return slices.Min(limits)
}

// remember notes a change of the size, as long as a policy may ask for it.
func (m *memory) remember(from, to int32, now time.Time) {
	cutoff := now.Add(-longestPeriod)
	m.up, m.down = since(m.up, cutoff), since(m.down, cutoff)
	if to > from {
		m.up = append(m.up, moment{to - from, now})
	} else {
		m.down = append(m.down, moment{from - to, now})
	}
}

// longestPeriod is the longest a policy may have, by validation.
const longestPeriod = 30 * time.Minute
