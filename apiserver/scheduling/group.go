// Package scheduling is the API group scheduling.k8s.io: which pods come first.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package scheduling

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

const (
	// maxUserPriority leaves room above for the system's own classes.
	maxUserPriority = 1_000_000_000
	systemPrefix    = "system-"
)

// SystemClasses are the classes that every cluster has.
func SystemClasses() []*schedulingv1.PriorityClass {
	policy := corev1.PreemptLowerPriority
	return []*schedulingv1.PriorityClass{
		{
			ObjectMeta:       metav1.ObjectMeta{Name: "system-node-critical"},
			Value:            2*maxUserPriority + 1000,
			Description:      "Used for system critical pods that must not be moved from their current node.",
			PreemptionPolicy: &policy,
		},
		{
			ObjectMeta:       metav1.ObjectMeta{Name: "system-cluster-critical"},
			Value:            2 * maxUserPriority,
			Description:      "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
			PreemptionPolicy: &policy,
		},
	}
}

// Group describes the group.
func Group() kind.Group {
	return kind.Group{
		Name:        schedulingv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: schedulingv1.AddToScheme,
		Kinds:       map[string][]kind.Definition{"v1": {priorityClasses()}},
	}
}

func priorityClasses() kind.Definition {
	doc := schedulingv1.PriorityClass{}.SwaggerDoc()
	return &kind.Kind[*schedulingv1.PriorityClass]{
		Resource: "priorityclasses", Singular: "priorityclass", ShortNames: []string{"pc"},
		Cluster: true,
		New:     func() *schedulingv1.PriorityClass { return &schedulingv1.PriorityClass{} },
		NewList: func() runtime.Object { return &schedulingv1.PriorityClassList{} },
		Default: func(c *schedulingv1.PriorityClass) {
			kind.SetDefaultPtr(&c.PreemptionPolicy, corev1.PreemptLowerPriority)
		},
		Generation: func(c *schedulingv1.PriorityClass) any { return nil },
		Validate:   validateClass,
		ValidateUpdate: func(c, old *schedulingv1.PriorityClass) field.ErrorList {
			var errs field.ErrorList
			if c.Value != old.Value {
				errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
			}
			return append(errs, validation.ValidateImmutableField(c.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Number("Value", doc["value"]),
			{Name: "Global-Default", Type: "boolean", Description: doc["globalDefault"]},
			kind.AgeColumn,
			kind.Column("PreemptionPolicy", doc["preemptionPolicy"]),
		},
		Cells: func(c *schedulingv1.PriorityClass) []any {
			return []any{c.Name, int64(c.Value), c.GlobalDefault, kind.Age(c.CreationTimestamp), string(kind.Or(c.PreemptionPolicy, ""))}
		},
	}
}

func validateClass(c *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if strings.HasPrefix(c.Name, systemPrefix) {
		if err := knownSystemClass(c); err != nil {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), "priority class names with '"+systemPrefix+"' prefix are reserved for system use only. error: "+err.Error()))
		}
	} else if c.Value > maxUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", maxUserPriority)))
	}
	if c.PreemptionPolicy != nil {
		errs = append(errs, kind.Supported(*c.PreemptionPolicy, field.NewPath("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

func knownSystemClass(c *schedulingv1.PriorityClass) error {
	for _, known := range SystemClasses() {
		if known.Name != c.Name {
			continue
		}
		if known.Value != c.Value {
			return fmt.Errorf("value of %v PriorityClass must be %v", known.Name, known.Value)
		}
		if known.GlobalDefault != c.GlobalDefault {
			return fmt.Errorf("globalDefault of %v PriorityClass must be %v", known.Name, known.GlobalDefault)
		}
		return nil
	}
	return fmt.Errorf("%v is not a known system priority class", c.Name)
}
