package batch

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/core"
	"kontiki/apiserver/kind"
)

// maxCronJobName leaves room for the time that ends the names of its Jobs.
const maxCronJobName = 63 - 11

func cronJobs() kind.Definition {
	return &kind.Kind[*batchv1.CronJob]{
		Resource: "cronjobs", Singular: "cronjob", ShortNames: []string{"cj"}, Categories: []string{"all"},
		New:        func() *batchv1.CronJob { return &batchv1.CronJob{} },
		NewList:    func() runtime.Object { return &batchv1.CronJobList{} },
		Generation: func(c *batchv1.CronJob) any { return c.Spec },
		Default:    defaultCronJob,
		Validate: func(c *batchv1.CronJob) field.ErrorList {
			errs := validateCronJobSpec(&c.Spec, nil)
			if len(c.Name) > maxCronJobName {
				errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), c.Name, fmt.Sprintf("must be no more than %d characters", maxCronJobName)))
			}
			return errs
		},
		ValidateUpdate: func(c, old *batchv1.CronJob) field.ErrorList { return validateCronJobSpec(&c.Spec, &old.Spec) },
		Warn:           warnCronJob,
		Status:         &kind.Status[*batchv1.CronJob]{},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Schedule", batchv1.CronJobSpec{}.SwaggerDoc()["schedule"]),
			kind.Column("Timezone", batchv1.CronJobSpec{}.SwaggerDoc()["timeZone"]),
			metav1.TableColumnDefinition{Name: "Suspend", Type: "boolean", Description: batchv1.CronJobSpec{}.SwaggerDoc()["suspend"]},
			kind.Number("Active", batchv1.CronJobStatus{}.SwaggerDoc()["active"]),
			kind.Column("Last Schedule", batchv1.CronJobStatus{}.SwaggerDoc()["lastScheduleTime"]),
			kind.AgeColumn,
			kind.Wide("Containers", "Names of each container in the template."),
			kind.Wide("Images", "Images referenced by each container in the template."),
			kind.Wide("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"]),
		},
		Cells: func(c *batchv1.CronJob) []any {
			last := "<none>"
			if c.Status.LastScheduleTime != nil {
				last = kind.Age(*c.Status.LastScheduleTime)
			}
			suspend := "<unset>"
			if c.Spec.Suspend != nil {
				suspend = map[bool]string{true: "True", false: "False"}[*c.Spec.Suspend]
			}
			names, images := containersOf(c.Spec.JobTemplate.Spec.Template.Spec)
			return []any{
				c.Name, c.Spec.Schedule, kind.Or(c.Spec.TimeZone, "<none>"), suspend, int64(len(c.Status.Active)), last,
				kind.Age(c.CreationTimestamp), names, images, metav1.FormatLabelSelector(c.Spec.JobTemplate.Spec.Selector),
			}
		},
	}
}

func defaultCronJob(c *batchv1.CronJob) {
	s := &c.Spec
	kind.SetDefault(&s.ConcurrencyPolicy, batchv1.AllowConcurrent)
	kind.SetDefaultPtr(&s.Suspend, false)
	kind.SetDefaultPtr(&s.SuccessfulJobsHistoryLimit, 3)
	kind.SetDefaultPtr(&s.FailedJobsHistoryLimit, 1)
	core.DefaultPodTemplate(&s.JobTemplate.Spec.Template)
	defaultFailurePolicy(s.JobTemplate.Spec.PodFailurePolicy)
}

func validateCronJobSpec(s, old *batchv1.CronJobSpec) field.ErrorList {
	var errs field.ErrorList
	if at := spec.Child("schedule"); s.Schedule == "" {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, validateSchedule(s, old, at)...)
	}
	if s.StartingDeadlineSeconds != nil {
		errs = append(errs, validation.ValidateNonnegativeField(*s.StartingDeadlineSeconds, spec.Child("startingDeadlineSeconds"))...)
	}
	if old == nil || kind.Or(old.TimeZone, "") != kind.Or(s.TimeZone, "") {
		errs = append(errs, validateTimeZone(s.TimeZone, spec.Child("timeZone"))...)
	}
	errs = append(errs, kind.OneOf(s.ConcurrencyPolicy, spec.Child("concurrencyPolicy"),
		batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	template := spec.Child("jobTemplate", "spec")
	errs = append(errs, validateJobSpec(&s.JobTemplate.Spec, template)...)
	if s.JobTemplate.Spec.Selector != nil {
		errs = append(errs, field.Invalid(template.Child("selector"), s.JobTemplate.Spec.Selector, "`selector` will be auto-generated"))
	}
	if m := s.JobTemplate.Spec.ManualSelector; kind.Or(m, false) {
		errs = append(errs, field.NotSupported(template.Child("manualSelector"), *m, []string{"nil", "false"}))
	}
	if s.SuccessfulJobsHistoryLimit != nil {
		errs = append(errs, validation.ValidateNonnegativeField(int64(*s.SuccessfulJobsHistoryLimit), spec.Child("successfulJobsHistoryLimit"))...)
	}
	if s.FailedJobsHistoryLimit != nil {
		errs = append(errs, validation.ValidateNonnegativeField(int64(*s.FailedJobsHistoryLimit), spec.Child("failedJobsHistoryLimit"))...)
	}
	return errs
}

func validateSchedule(s, old *batchv1.CronJobSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if _, err := cron.ParseStandard(s.Schedule); err != nil {
		errs = append(errs, field.Invalid(at, s.Schedule, err.Error()))
	}
	if strings.Contains(s.Schedule, "TZ") {
		switch kept := old != nil && strings.Contains(old.Schedule, "TZ"); {
		case s.TimeZone != nil:
			errs = append(errs, field.Invalid(at, s.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
		case !kept:
			errs = append(errs, field.Invalid(at, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
		}
	}
	return errs
}

func validateTimeZone(zone *string, at *field.Path) field.ErrorList {
	if zone == nil {
		return nil
	}
	if *zone == "" {
		return field.ErrorList{field.Invalid(at, *zone, "timeZone must be nil or non-empty string")}
	}
	var errs field.ErrorList
	if strings.EqualFold(*zone, "Local") {
		errs = append(errs, field.Invalid(at, *zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	}
	if _, err := time.LoadLocation(*zone); err != nil {
		errs = append(errs, field.Invalid(at, *zone, err.Error()))
	}
	return errs
}
