package kind

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// CountOrPercent checks a number that may be given in percent.
func CountOrPercent(v intstr.IntOrString, at *field.Path) field.ErrorList {
	if v.Type == intstr.String {
		return Invalid(at, v, utilvalidation.IsValidPercent(v.StrVal))
	}
	return validation.ValidateNonnegativeField(int64(v.IntVal), at)
}

// NotMoreThanAll refuses more than 100%.
func NotMoreThanAll(v intstr.IntOrString, at *field.Path) field.ErrorList {
	if n, ok := percent(v); ok && n > 100 {
		return field.ErrorList{field.Invalid(at, v, "must not be greater than 100%")}
	}
	return nil
}

// Amount is the number, whether it stands for a count or for percent.
func Amount(v intstr.IntOrString) int {
	if n, ok := percent(v); ok {
		return n
	}
	return v.IntValue()
}

func percent(v intstr.IntOrString) (int, bool) {
	if v.Type != intstr.String || len(utilvalidation.IsValidPercent(v.StrVal)) != 0 {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	return n, err == nil
}

// Invalid turns the messages of a rule into errors.
func Invalid(at *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(at, value, m))
	}
	return errs
}

// FinalizerName refuses a finalizer without a domain that is not Kubernetes' own.
func FinalizerName(name string, at *field.Path) field.ErrorList {
	switch name {
	case "kubernetes", metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
		return nil
	}
	if !strings.Contains(name, "/") {
		return field.ErrorList{field.Invalid(at, name, "name is neither a standard finalizer name nor is it fully qualified")}
	}
	return nil
}

// OneOf refuses what is not among supported; an empty value is missing.
func OneOf[T ~string](value T, at *field.Path, supported ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return Supported(value, at, supported...)
}

// Supported refuses what is not among supported, an empty value as well.
func Supported[T ~string](value T, at *field.Path, supported ...T) field.ErrorList {
	for _, s := range supported {
		if value == s {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(at, value, supported)}
}

// Counts checks that none of the named numbers is negative.
func Counts(at *field.Path, counts ...Count) field.ErrorList {
	var errs field.ErrorList
	for _, c := range counts {
		errs = append(errs, validation.ValidateNonnegativeField(c.N, at.Child(c.Name))...)
	}
	return errs
}

// Count is a number and the field that holds it.
type Count struct {
	Name string
	N    int64
}

// Or is what p points to, or v.
func Or[T any](p *T, v T) T {
	if p == nil {
		return v
	}
	return *p
}

// SetDefault gives a missing field a value.
func SetDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// SetDefaultPtr gives a missing optional field a value of its own.
func SetDefaultPtr[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}
