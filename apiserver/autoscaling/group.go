// Package autoscaling is the API group autoscaling: workloads that grow and
// shrink by what is measured. Version 2 is what is stored and worked with;
// version 1 is converted.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package autoscaling

import (
	"errors"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/runtime"

	"kontiki/apiserver/kind"
)

// Group describes the group.
func Group() kind.Group {
	return kind.Group{
		Name:     autoscalingv2.GroupName,
		Versions: []string{"v2", "v1"},
		AddToScheme: func(scheme *runtime.Scheme) error {
			scheme.AddTypeDefaultingFunc(&autoscalingv1.HorizontalPodAutoscaler{}, func(o any) {
				kind.SetDefaultPtr(&o.(*autoscalingv1.HorizontalPodAutoscaler).Spec.MinReplicas, 1)
			})
			return errors.Join(autoscalingv2.AddToScheme(scheme), autoscalingv1.AddToScheme(scheme), addConversions(scheme))
		},
		Kinds: map[string][]kind.Definition{
			"v2": {horizontalPodAutoscalers()},
			"v1": {horizontalPodAutoscalers()},
		},
	}
}
