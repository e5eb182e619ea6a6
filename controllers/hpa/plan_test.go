package hpa

import (
	"errors"
	"fmt"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"kontiki/controllers/plantest"
)

var testNow = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

type input struct {
	Spec     autoscalingv2.HorizontalPodAutoscalerSpec `json:"spec"`
	Replicas int32                                     `json:"replicas"`
	NoScale  string                                    `json:"noScale"`
	// Selector is the scale's; "none" is none.
	Selector string   `json:"selector"`
	Rivals   []string `json:"rivals"`
	// ScaledToZero is whether the autoscaler says that it was it.
	ScaledToZero bool `json:"scaledToZero"`
	// Pods are as many as replicas if none are named; each requests 1 cpu.
	Pods     []podInput     `json:"pods"`
	Readings []readingInput `json:"readings"`
	// Recommended, Up and Down are from before, by age in seconds.
	Recommended []momentInput `json:"recommended"`
	Up          []momentInput `json:"up"`
	Down        []momentInput `json:"down"`
	WriteError  string        `json:"writeError"`
}

type podInput struct {
	Name  string `json:"name"`
	State string `json:"state"` // ready (default), pending, starting, leaving, bare (requests nothing)
}

type readingInput struct {
	Pods  map[string]string `json:"pods"`
	Each  string            `json:"each"` // what every pod uses
	Value string            `json:"value"`
	Error string            `json:"error"`
}

type momentInput struct {
	Replicas int32 `json:"replicas"`
	Ago      int   `json:"ago"`
}

type output struct {
	Size       *int32            `json:"size,omitempty"`
	Desired    int32             `json:"desired"`
	Conditions map[string]string `json:"conditions"`
	Events     []string          `json:"events,omitempty"`
	Current    []string          `json:"current,omitempty"`
}

func (in input) world() world {
	w := world{hpa: &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "h"}, Spec: in.Spec}, now: testNow, rivals: in.Rivals}
	if in.ScaledToZero {
		w.hpa.Status.Conditions = []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: autoscalingv2.ScaledToZero, Status: corev1.ConditionTrue}}
	}
	if in.NoScale != "" {
		w.scaleErr = errors.New(in.NoScale)
		return w
	}
	w.scale = &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: in.Replicas}, Status: autoscalingv1.ScaleStatus{Replicas: in.Replicas, Selector: "app=web"}}
	if in.Selector == "none" {
		w.scale.Status.Selector = ""
	}
	if in.Pods == nil {
		for i := range in.Replicas {
			in.Pods = append(in.Pods, podInput{Name: fmt.Sprint("p", i)})
		}
	}
	for _, p := range in.Pods {
		w.pods = append(w.pods, p.pod())
	}
	for _, r := range in.Readings {
		w.readings = append(w.readings, r.reading(in.Pods))
	}
	moments := func(of []momentInput) (all []moment) {
		for _, m := range of {
			all = append(all, moment{m.Replicas, testNow.Add(-time.Duration(m.Ago) * time.Second)})
		}
		return all
	}
	w.memory = memory{moments(in.Recommended), moments(in.Up), moments(in.Down)}
	return w
}

func (p podInput) pod() *corev1.Pod {
	started := metav1.NewTime(testNow.Add(-time.Hour))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Status: corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &started,
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: started}},
	}}
	pod.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}}}}
	switch p.State {
	case "pending":
		pod.Status.Phase = corev1.PodPending
	case "starting":
		pod.Status.StartTime = &metav1.Time{Time: testNow.Add(-10 * time.Second)}
		pod.Status.Conditions[0].Status = corev1.ConditionFalse
	case "leaving":
		pod.DeletionTimestamp = &metav1.Time{Time: testNow}
	case "bare":
		pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
	}
	return pod
}

func (r readingInput) reading(pods []podInput) reading {
	var got reading
	if r.Error != "" {
		got.err = errors.New(r.Error)
	}
	amount := func(s string) int64 { q := resource.MustParse(s); return q.MilliValue() }
	if r.Value != "" {
		got.value = amount(r.Value)
	}
	got.pods = map[string]sample{}
	for _, p := range pods {
		if r.Each != "" {
			got.pods[p.Name] = sample{amount(r.Each), testNow, time.Minute}
		}
	}
	for name, value := range r.Pods {
		got.pods[name] = sample{amount(value), testNow, time.Minute}
	}
	return got
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		w := in.world()
		o := plan(w)
		out := output{Conditions: map[string]string{}}
		if o.resize != nil {
			out.Size = o.resize
			var err error
			if in.WriteError != "" {
				err = errors.New(in.WriteError)
			}
			o.resized(&w, err)
		}
		out.Desired = o.status.DesiredReplicas
		for _, c := range o.status.Conditions {
			out.Conditions[string(c.Type)] = fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
		}
		for _, e := range o.events {
			out.Events = append(out.Events, fmt.Sprintf("%s %s: %s", e.kind, e.reason, e.message))
		}
		for _, m := range o.status.CurrentMetrics {
			if c := m.ContainerResource; c != nil {
				out.Current = append(out.Current, fmt.Sprintf("%s of %s %d%% %v", c.Name, c.Container, *c.Current.AverageUtilization, c.Current.AverageValue))
			}
			if m.Resource != nil && m.Resource.Current.AverageUtilization != nil {
				out.Current = append(out.Current, fmt.Sprintf("%s %d%% %v", m.Resource.Name, *m.Resource.Current.AverageUtilization, m.Resource.Current.AverageValue))
			}
		}
		return out
	})
}

// TestNeverFasterThanAllowed: whatever is measured, the size stays between its
// bounds, and in no period does it grow or shrink by more than its policies allow.
func TestNeverFasterThanAllowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const step = 5 * time.Second
		pods := int32(rapid.IntRange(1, 5).Draw(t, "pods"))
		period := int32(rapid.IntRange(5, 60).Draw(t, "period"))
		policy := []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: pods, PeriodSeconds: period}}
		window := int32(0)
		in := input{Replicas: int32(rapid.IntRange(1, 20).Draw(t, "start")), Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			MaxReplicas: 20,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(1, resource.DecimalSI)},
			}}},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{
				ScaleUp: &autoscalingv2.HPAScalingRules{Policies: policy}, ScaleDown: &autoscalingv2.HPAScalingRules{Policies: policy, StabilizationWindowSeconds: &window},
			},
		}}
		var m memory
		sizes := []int32{in.Replicas}
		for i := range 60 {
			in.Readings = []readingInput{{Value: fmt.Sprint(rapid.IntRange(0, 40).Draw(t, "load"))}}
			w := in.world()
			w.now, w.memory = testNow.Add(time.Duration(i)*step), m
			o := plan(w)
			if o.resize != nil {
				in.Replicas = *o.resize
				o.resized(&w, nil)
			}
			m = o.memory
			if sizes = append(sizes, in.Replicas); in.Replicas < 1 || in.Replicas > 20 {
				t.Fatalf("size %d", in.Replicas)
			}
			// Compared with what it was a period ago it did not move further than allowed.
			cutoff := time.Duration(i)*step - time.Duration(period)*time.Second
			was := sizes[0]
			if cutoff >= 0 {
				was = sizes[int(cutoff/step)+1]
			}
			before := sizes[len(sizes)-2]
			if in.Replicas > before && in.Replicas-was > pods || in.Replicas < before && was-in.Replicas > pods {
				t.Fatalf("from %d to %d within %d s, %d pods allowed: %v", was, in.Replicas, period, pods, sizes)
			}
		}
	})
}
