package kind

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/registry/rest"
)

var objectMetaDoc = metav1.ObjectMeta{}.SwaggerDoc()

// NameColumn is the first column of nearly every table.
var NameColumn = metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: objectMetaDoc["name"]}

// AgeColumn tells how old an object is.
var AgeColumn = Column("Age", objectMetaDoc["creationTimestamp"])

// Column is a column of text that every table shows.
func Column(name, doc string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: doc}
}

// Number is a column of numbers.
func Number(name, doc string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "integer", Description: doc}
}

// Wide is a column that only `-o wide` shows.
func Wide(name, doc string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Priority: 1, Description: doc}
}

// Age prints the time since t as kubectl does.
func Age(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// MicroAge is Age for times with microseconds.
func MicroAge(t metav1.MicroTime) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

func (k *Kind[T]) table() rest.TableConvertor {
	t := tables[T]{columns: k.Columns, cells: k.Cells, conditions: k.RowConditions}
	if t.cells == nil {
		t.columns = []metav1.TableColumnDefinition{NameColumn, AgeColumn}
		t.cells = func(obj T) []any { return []any{obj.GetName(), Age(obj.GetCreationTimestamp())} }
	}
	return t
}

// tables turns objects and lists of one kind into tables.
type tables[T Object] struct {
	columns    []metav1.TableColumnDefinition
	cells      func(T) []any
	conditions func(T) []metav1.TableRowCondition
}

// ConvertToTable implements rest.TableConvertor.
func (t tables[T]) ConvertToTable(_ context.Context, o, options runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{}
	add := func(o runtime.Object) error {
		obj, ok := o.(T)
		if !ok {
			return fmt.Errorf("%T cannot be printed as a row of this table", o)
		}
		row := metav1.TableRow{Cells: t.cells(obj), Object: runtime.RawExtension{Object: o}}
		if t.conditions != nil {
			row.Conditions = t.conditions(obj)
		}
		table.Rows = append(table.Rows, row)
		return nil
	}
	if meta.IsListType(o) {
		if err := meta.EachListItem(o, add); err != nil {
			return nil, err
		}
	} else if err := add(o); err != nil {
		return nil, err
	}
	if list, err := meta.ListAccessor(o); err == nil {
		table.ResourceVersion = list.GetResourceVersion()
		table.Continue = list.GetContinue()
		table.RemainingItemCount = list.GetRemainingItemCount()
	} else if single, err := meta.CommonAccessor(o); err == nil {
		table.ResourceVersion = single.GetResourceVersion()
	}
	if opt, ok := options.(*metav1.TableOptions); !ok || !opt.NoHeaders {
		table.ColumnDefinitions = t.columns
	}
	return table, nil
}
