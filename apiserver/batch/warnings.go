package batch

import (
	"fmt"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/core"
	"kontiki/apiserver/kind"
)

// Beyond both of these, what an Indexed Job remembers of its indexes may not fit its status.
const (
	manyCompletions = 100_000
	manyAtOnce      = 10_000
)

func warnJobSpec(s *batchv1.JobSpec, at *field.Path) []string {
	var out []string
	if s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion && kind.Or(s.Completions, 0) > manyCompletions && kind.Or(s.Parallelism, 0) > manyAtOnce {
		out = append(out, fmt.Sprintf("%s: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, "+
			"Kubernetes might not be able to track completedIndexes when a big number of indexes fail", at))
	}
	return append(out, core.WarnPodTemplate(&s.Template, at.Child("template"))...)
}

func warnJob(j, old *batchv1.Job) []string {
	at := field.NewPath("spec")
	switch {
	case old == nil:
		return append(kind.WarnOfPodNames(j.Name), warnJobSpec(&j.Spec, at)...)
	case kind.SpecChanged(j, old):
		return warnJobSpec(&j.Spec, at)
	}
	return nil
}

func warnCronJob(c, old *batchv1.CronJob) []string {
	at := field.NewPath("spec", "jobTemplate", "spec")
	if old == nil {
		return append(kind.WarnOfPodNames(c.Name), warnJobSpec(&c.Spec.JobTemplate.Spec, at)...)
	}
	var out []string
	if kind.SpecChanged(c, old) {
		out = warnJobSpec(&c.Spec.JobTemplate.Spec, at)
	}
	if strings.Contains(c.Spec.Schedule, "TZ") { // one that is older than the rule against it
		out = append(out, fmt.Sprintf("cannot use TZ or CRON_TZ in %s, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
			field.NewPath("spec", "spec", "schedule"))) // upstream's path
	}
	return out
}
