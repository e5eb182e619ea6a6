package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// eventTTL is how long an event is kept, in seconds.
const eventTTL = 60 * 60

// Events describes events; events.k8s.io serves the same objects, and calls their fields
// by other labels.
func Events(labels map[string]string) kind.Definition {
	return &kind.Kind[*corev1.Event]{
		Resource: "events", Singular: "event", ShortNames: []string{"ev"},
		New:            func() *corev1.Event { return &corev1.Event{} },
		NewList:        func() runtime.Object { return &corev1.EventList{} },
		Name:           validation.NameIsDNSSubdomain,
		CreateOnUpdate: true,
		TTL:            eventTTL,
		Validate:       validateEvent,
		Fields:         eventFields,
		FieldLabels:    labels,
		Columns: []metav1.TableColumnDefinition{
			kind.Column("Last Seen", corev1.Event{}.SwaggerDoc()["lastTimestamp"]),
			kind.Column("Type", corev1.Event{}.SwaggerDoc()["type"]),
			kind.Column("Reason", corev1.Event{}.SwaggerDoc()["reason"]),
			kind.Column("Object", corev1.Event{}.SwaggerDoc()["involvedObject"]),
			kind.Wide("Subobject", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"]),
			kind.Wide("Source", corev1.Event{}.SwaggerDoc()["source"]),
			kind.Column("Message", corev1.Event{}.SwaggerDoc()["message"]),
			kind.Wide("First Seen", corev1.Event{}.SwaggerDoc()["firstTimestamp"]),
			kind.Wide("Count", corev1.Event{}.SwaggerDoc()["count"]),
			{Name: "Name", Type: "string", Format: "name", Priority: 1, Description: kind.NameColumn.Description},
		},
		Cells: eventCells,
	}
}

func eventFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return fields.Set{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}

// validateEvent keeps an event in the namespace of what it is about.
func validateEvent(e *corev1.Event) field.ErrorList {
	path := field.NewPath("involvedObject", "namespace")
	var errs field.ErrorList
	if e.InvolvedObject.Namespace == "" {
		if e.Namespace != metav1.NamespaceNone && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
			errs = append(errs, field.Invalid(path, e.InvolvedObject.Namespace, "does not match event.namespace"))
		}
	} else if e.Namespace != e.InvolvedObject.Namespace {
		errs = append(errs, field.Invalid(path, e.InvolvedObject.Namespace, "does not match event.namespace"))
	}
	if e.ReportingController != "" {
		errs = append(errs, invalidFor(field.NewPath("reportingController"), e.ReportingController, utilvalidation.IsQualifiedName(e.ReportingController))...)
	}
	return errs
}

func eventCells(e *corev1.Event) []any {
	first := kind.Age(e.FirstTimestamp)
	if e.FirstTimestamp.IsZero() {
		first = kind.MicroAge(e.EventTime)
	}
	last := kind.Age(e.LastTimestamp)
	if e.LastTimestamp.IsZero() {
		last = first
	}
	count := e.Count
	switch {
	case e.Series != nil:
		last, count = kind.MicroAge(e.Series.LastObservedTime), e.Series.Count
	case count == 0:
		count = 1
	}
	target := e.InvolvedObject.Name
	if e.InvolvedObject.Kind != "" {
		target = strings.ToLower(e.InvolvedObject.Kind) + "/" + target
	}
	return []any{last, e.Type, e.Reason, target, e.InvolvedObject.FieldPath, eventSource(e), strings.TrimSpace(e.Message), first, int64(count), e.Name}
}

func eventSource(e *corev1.Event) string {
	component, host := e.Source.Component, e.Source.Host
	if component == "" {
		component, host = e.ReportingController, e.ReportingInstance
	}
	if host == "" {
		return component
	}
	return fmt.Sprintf("%s, %s", component, host)
}
