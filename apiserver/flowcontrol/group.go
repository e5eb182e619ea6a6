// Package flowcontrol is the API group flowcontrol.apiserver.k8s.io. Its objects are
// kept for tools that write them; this server bounds its requests by class
// (inflight.go in apiserver) and does not follow them.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package flowcontrol

import (
	"fmt"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// Group describes the group.
func Group() kind.Group {
	return kind.Group{
		Name:        flowcontrolv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: flowcontrolv1.AddToScheme,
		Kinds:       map[string][]kind.Definition{"v1": {flowSchemas(), priorityLevels()}},
	}
}

func flowSchemas() kind.Definition {
	return &kind.Kind[*flowcontrolv1.FlowSchema]{
		Resource: "flowschemas", Singular: "flowschema",
		Cluster:    true,
		New:        func() *flowcontrolv1.FlowSchema { return &flowcontrolv1.FlowSchema{} },
		NewList:    func() runtime.Object { return &flowcontrolv1.FlowSchemaList{} },
		Generation: func(s *flowcontrolv1.FlowSchema) any { return s.Spec },
		Default: func(s *flowcontrolv1.FlowSchema) {
			kind.SetDefault(&s.Spec.MatchingPrecedence, 1000)
		},
		Validate: validateSchema,
		Status: &kind.Status[*flowcontrolv1.FlowSchema]{
			Validate: func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList { return validateSchemaStatus(s) },
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("PriorityLevel", flowcontrolv1.PriorityLevelConfigurationReference{}.SwaggerDoc()["name"]),
			kind.Column("MatchingPrecedence", flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()["matchingPrecedence"]),
			kind.Column("DistinguisherMethod", flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()["distinguisherMethod"]),
			kind.AgeColumn,
			kind.Column("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
		},
		Cells: func(s *flowcontrolv1.FlowSchema) []any {
			distinguisher := "<none>"
			if s.Spec.DistinguisherMethod != nil {
				distinguisher = string(s.Spec.DistinguisherMethod.Type)
			}
			dangling := "?"
			for _, c := range s.Status.Conditions {
				if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
					dangling = string(c.Status)
				}
			}
			return []any{s.Name, s.Spec.PriorityLevelConfiguration.Name, fmt.Sprint(s.Spec.MatchingPrecedence), distinguisher, kind.Age(s.CreationTimestamp), dangling}
		},
	}
}

func priorityLevels() kind.Definition {
	doc := flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()
	return &kind.Kind[*flowcontrolv1.PriorityLevelConfiguration]{
		Resource: "prioritylevelconfigurations", Singular: "prioritylevelconfiguration",
		Cluster:    true,
		New:        func() *flowcontrolv1.PriorityLevelConfiguration { return &flowcontrolv1.PriorityLevelConfiguration{} },
		NewList:    func() runtime.Object { return &flowcontrolv1.PriorityLevelConfigurationList{} },
		Generation: func(p *flowcontrolv1.PriorityLevelConfiguration) any { return p.Spec },
		Default:    defaultLevel,
		Validate:   validateLevel,
		Status: &kind.Status[*flowcontrolv1.PriorityLevelConfiguration]{
			Validate: func(p, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList { return validateLevelStatus(p) },
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Type", flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"]),
			kind.Column("NominalConcurrencyShares", flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc()["nominalConcurrencyShares"]),
			kind.Column("Queues", doc["queues"]),
			kind.Column("HandSize", doc["handSize"]),
			kind.Column("QueueLengthLimit", doc["queueLengthLimit"]),
			kind.AgeColumn,
		},
		Cells: levelCells,
	}
}

func defaultLevel(p *flowcontrolv1.PriorityLevelConfiguration) {
	if l := p.Spec.Limited; l != nil {
		kind.SetDefaultPtr(&l.NominalConcurrencyShares, 30)
		kind.SetDefaultPtr(&l.LendablePercent, 0)
		if q := l.LimitResponse.Queuing; l.LimitResponse.Type == flowcontrolv1.LimitResponseTypeQueue && q != nil {
			kind.SetDefault(&q.HandSize, 8)
			kind.SetDefault(&q.Queues, 64)
			kind.SetDefault(&q.QueueLengthLimit, 50)
		}
	}
	if e := p.Spec.Exempt; e != nil {
		kind.SetDefaultPtr(&e.NominalConcurrencyShares, 0)
		kind.SetDefaultPtr(&e.LendablePercent, 0)
	}
}

func levelCells(p *flowcontrolv1.PriorityLevelConfiguration) []any {
	shares, queues, hand, length := "<none>", "<none>", "<none>", "<none>"
	text := func(n int32) string { return fmt.Sprint(n) }
	if l := p.Spec.Limited; l != nil {
		shares = text(kind.Or(l.NominalConcurrencyShares, 0))
		if q := l.LimitResponse.Queuing; q != nil {
			queues, hand, length = text(q.Queues), text(q.HandSize), text(q.QueueLengthLimit)
		}
	}
	return []any{p.Name, string(p.Spec.Type), shares, queues, hand, length, kind.Age(p.CreationTimestamp)}
}
