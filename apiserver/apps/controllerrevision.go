package apps

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func controllerRevisions() kind.Definition {
	return &kind.Kind[*appsv1.ControllerRevision]{
		Resource: "controllerrevisions", Singular: "controllerrevision",
		New:      func() *appsv1.ControllerRevision { return &appsv1.ControllerRevision{} },
		NewList:  func() runtime.Object { return &appsv1.ControllerRevisionList{} },
		Validate: validateRevision,
		ValidateUpdate: func(r, old *appsv1.ControllerRevision) field.ErrorList {
			errs := validateRevision(r)
			if !apiequality.Semantic.DeepEqual(r.Data, old.Data) {
				errs = append(errs, validation.ValidateImmutableField(r.Data, old.Data, field.NewPath("data"))...)
			}
			return errs
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Controller", "Controller of the object"),
			kind.Column("Revision", appsv1.ControllerRevision{}.SwaggerDoc()["revision"]),
			kind.AgeColumn,
		},
		Cells: func(r *appsv1.ControllerRevision) []any {
			controller := "<none>"
			if ref := metav1.GetControllerOf(r); ref != nil {
				gv, _ := schema.ParseGroupVersion(ref.APIVersion)
				controller = fmt.Sprintf("%s/%s", schema.GroupKind{Group: gv.Group, Kind: strings.ToLower(ref.Kind)}, ref.Name)
			}
			return []any{r.Name, controller, r.Revision, kind.Age(r.CreationTimestamp)}
		},
	}
}

func validateRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs := validation.ValidateNonnegativeField(r.Revision, field.NewPath("revision"))
	if r.Data.Raw == nil && r.Data.Object == nil {
		errs = append(errs, field.Required(field.NewPath("data"), "data is mandatory"))
	}
	return errs
}
