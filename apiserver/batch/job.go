package batch

import (
	"context"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"kontiki/apiserver/core"
	"kontiki/apiserver/kind"
)

// Labels that a Job had before they got the group's prefix; both are given.
const (
	oldUIDLabel  = "controller-uid"
	oldNameLabel = "job-name"
)

func jobs() kind.Definition {
	return &kind.Kind[*batchv1.Job]{
		Resource: "jobs", Singular: "job", Categories: []string{"all"},
		New:              func() *batchv1.Job { return &batchv1.Job{} },
		NewList:          func() runtime.Object { return &batchv1.JobList{} },
		ReturnDeleted:    true,
		OrphansByDefault: true, // as the first version of the kind did
		Generation:       func(j *batchv1.Job) any { return j.Spec },
		Default:          defaultJob,
		Prepare:          prepareJob,
		Validate:         validateJob,
		ValidateUpdate:   validateJobUpdate,
		Warn:             warnJob,
		Status:           &kind.Status[*batchv1.Job]{Validate: validateJobStatus},
		Fields: func(j *batchv1.Job) fields.Set {
			return fields.Set{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
		},
		FieldRefusal: "field label %q not supported for Job",
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Status", "Status of the job."),
			kind.Column("Completions", batchv1.JobStatus{}.SwaggerDoc()["succeeded"]),
			kind.Column("Duration", "Time required to complete the job."),
			kind.AgeColumn,
			kind.Wide("Containers", "Names of each container in the template."),
			kind.Wide("Images", "Images referenced by each container in the template."),
			kind.Wide("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"]),
		},
		Cells: func(j *batchv1.Job) []any {
			names, images := containersOf(j.Spec.Template.Spec)
			return []any{
				j.Name, jobState(j), completionsOf(j), durationOf(j), kind.Age(j.CreationTimestamp),
				names, images, metav1.FormatLabelSelector(j.Spec.Selector),
			}
		},
	}
}

func containersOf(s corev1.PodSpec) (names, images string) {
	n, i := make([]string, len(s.Containers)), make([]string, len(s.Containers))
	for k, c := range s.Containers {
		n[k], i[k] = c.Name, c.Image
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

func jobState(j *batchv1.Job) string {
	has := func(t batchv1.JobConditionType) bool {
		for _, c := range j.Status.Conditions {
			if c.Type == t && c.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	}
	switch {
	case has(batchv1.JobComplete):
		return "Complete"
	case has(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case has(batchv1.JobSuspended):
		return "Suspended"
	case has(batchv1.JobFailureTarget):
		return "FailureTarget"
	case has(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completionsOf(j *batchv1.Job) string {
	if c := j.Spec.Completions; c != nil {
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *c)
	}
	if p := kind.Or(j.Spec.Parallelism, 0); p > 1 {
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, p)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func durationOf(j *batchv1.Job) string {
	switch {
	case j.Status.StartTime == nil:
		return ""
	case j.Status.CompletionTime == nil:
		return duration.HumanDuration(time.Since(j.Status.StartTime.Time))
	}
	return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
}

func defaultJob(j *batchv1.Job) {
	s := &j.Spec
	core.DefaultPodTemplate(&s.Template)
	if s.Completions == nil && s.Parallelism == nil {
		kind.SetDefaultPtr(&s.Completions, 1)
	}
	kind.SetDefaultPtr(&s.Parallelism, 1)
	if s.BackoffLimit == nil {
		limit := int32(6)
		if s.BackoffLimitPerIndex != nil { // each index has a limit of its own
			limit = math.MaxInt32
		}
		s.BackoffLimit = &limit
	}
	if len(j.Labels) == 0 && len(s.Template.Labels) > 0 {
		j.Labels = maps.Clone(s.Template.Labels)
	}
	kind.SetDefaultPtr(&s.CompletionMode, batchv1.NonIndexedCompletion)
	kind.SetDefaultPtr(&s.Suspend, false)
	kind.SetDefaultPtr(&s.ManualSelector, false)
	policy := batchv1.TerminatingOrFailed
	if s.PodFailurePolicy != nil {
		policy = batchv1.Failed
	}
	kind.SetDefaultPtr(&s.PodReplacementPolicy, policy)
	defaultFailurePolicy(s.PodFailurePolicy)
}

func defaultFailurePolicy(p *batchv1.PodFailurePolicy) {
	if p == nil {
		return
	}
	for i := range p.Rules {
		for j := range p.Rules[i].OnPodConditions {
			kind.SetDefault(&p.Rules[i].OnPodConditions[j].Status, corev1.ConditionTrue)
		}
	}
}

// prepareJob gives a new Job a selector that no other can have, unless its
// creator chose to select by hand.
func prepareJob(_ context.Context, j, old *batchv1.Job) {
	j.Spec.Scheduling = nil // a field of a feature that is off
	if old != nil || kind.Or(j.Spec.ManualSelector, false) {
		return
	}
	labels := map[string]string{}
	maps.Copy(labels, j.Spec.Template.Labels)
	for label, value := range map[string]string{
		oldNameLabel: j.Name, batchv1.JobNameLabel: j.Name,
		oldUIDLabel: string(j.UID), batchv1.ControllerUidLabel: string(j.UID),
	} {
		if _, ok := labels[label]; !ok { // what differs is refused by validation
			labels[label] = value
		}
	}
	j.Spec.Template.Labels = labels
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, ok := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !ok {
		j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(j.UID)
	}
}
