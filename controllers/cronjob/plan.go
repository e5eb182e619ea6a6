package cronjob

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// world is what is known of one CronJob. jobs are all that it controls: the API was asked
// for those that its status lists and the cache does not show, and for the status if the
// cache shows a Job that it does not list.
type world struct {
	cronJob *batchv1.CronJob
	jobs    []*batchv1.Job
	now     time.Time
}

// actions are carried out in this order.
type actions struct {
	replace []*batchv1.Job // to delete before create
	create  *batchv1.Job
	status  *batchv1.CronJobStatus // nil: as it is
	remove  []*batchv1.Job         // finished ones beyond the history limits
	again   time.Duration          // until the next scheduled time
	events  []event
}

type event struct{ kind, reason, message string }

type planning struct {
	world
	actions
	next batchv1.CronJobStatus
}

// plan starts at most one Job for each scheduled time: its name tells the time, so
// that another leader, or a stale cache, meets the one that exists.
func plan(w world) actions {
	p := planning{world: w, next: *w.cronJob.Status.DeepCopy()}
	p.follow()
	p.trim()
	if w.cronJob.DeletionTimestamp == nil && !ptr.Deref(w.cronJob.Spec.Suspend, false) {
		p.schedule()
	}
	if !equality.Semantic.DeepEqual(p.next, w.cronJob.Status) {
		p.status = &p.next
	}
	return p.actions
}

func (p *planning) warn(reason, format string, args ...any) {
	p.events = append(p.events, event{corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...)})
}

func (p *planning) tell(reason, format string, args ...any) {
	p.events = append(p.events, event{corev1.EventTypeNormal, reason, fmt.Sprintf(format, args...)})
}

func ended(job *batchv1.Job) (how batchv1.JobConditionType, at time.Time) {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			if c.Type == batchv1.JobComplete && job.Status.CompletionTime != nil {
				return c.Type, job.Status.CompletionTime.Time
			}
			return c.Type, c.LastTransitionTime.Time
		}
	}
	return "", time.Time{}
}

// follow keeps the list of Jobs that run, and remembers the last that succeeded. A Job that
// this CronJob did not start, as "kubectl create job --from" does not, is not listed: it
// neither keeps others from starting nor gives way to one.
func (p *planning) follow() {
	listed := map[types.UID]bool{}
	for _, ref := range p.next.Active {
		listed[ref.UID] = true
	}
	before := p.next.Active
	p.next.Active = nil
	slices.SortFunc(p.jobs, func(a, b *batchv1.Job) int {
		return cmp.Or(a.CreationTimestamp.Time.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	there := map[types.UID]bool{}
	for _, job := range p.jobs {
		there[job.UID] = true
		how, at := ended(job)
		switch {
		case how == "" && (listed[job.UID] || p.forgotten(job)):
			p.next.Active = append(p.next.Active, reference(job))
		case how == "":
			p.warn("UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
		case listed[job.UID]:
			p.tell("SawCompletedJob", "Saw completed job: %s, condition: %s", job.Name, how)
		}
		if how == batchv1.JobComplete && (p.next.LastSuccessfulTime == nil || at.After(p.next.LastSuccessfulTime.Time)) {
			p.next.LastSuccessfulTime = ptr.To(metav1.NewTime(at))
		}
	}
	for _, ref := range before {
		if !there[ref.UID] {
			p.tell("MissingJob", "Active job went missing: %v", ref.Name)
		}
	}
}

// forgotten says whether a Job was started for a time that the status does not tell: by a
// pass that ended before it wrote one.
func (p *planning) forgotten(job *batchv1.Job) bool {
	at := scheduledAt(job)
	return !at.IsZero() && (p.next.LastScheduleTime == nil || at.After(p.next.LastScheduleTime.Time))
}

func reference(job *batchv1.Job) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job",
		Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
	}
}

// trim removes the oldest finished Jobs beyond the limits, but none of a time that the
// status does not tell yet: it is the only proof that that time is done.
func (p *planning) trim() {
	byEnd := map[batchv1.JobConditionType][]*batchv1.Job{}
	for _, job := range p.jobs {
		how, _ := ended(job)
		if at := scheduledAt(job); how == "" || job.DeletionTimestamp != nil || p.next.LastScheduleTime == nil || at.After(p.next.LastScheduleTime.Time) {
			continue
		}
		byEnd[how] = append(byEnd[how], job)
	}
	drop := func(jobs []*batchv1.Job, limit *int32) {
		if limit != nil && len(jobs) > int(*limit) {
			p.remove = append(p.remove, jobs[:len(jobs)-int(*limit)]...)
		}
	}
	drop(byEnd[batchv1.JobComplete], p.cronJob.Spec.SuccessfulJobsHistoryLimit)
	drop(byEnd[batchv1.JobFailed], p.cronJob.Spec.FailedJobsHistoryLimit)
}

func scheduledAt(job *batchv1.Job) time.Time {
	at, err := time.Parse(time.RFC3339, job.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	if err != nil {
		return time.Time{}
	}
	return at
}

func (p *planning) schedule() {
	if zone := p.cronJob.Spec.TimeZone; zone != nil {
		if _, err := time.LoadLocation(*zone); err != nil {
			p.warn("UnknownTimeZone", "invalid timeZone: %q: %s", *zone, err)
			return
		}
	}
	schedule, err := scheduleOf(p.cronJob)
	if err != nil {
		p.warn("UnparseableSchedule", "unparseable schedule: %q : %s", p.cronJob.Spec.Schedule, err)
		return
	}
	next := schedule.Next(p.now)
	if next.IsZero() { // as the 31st of February
		p.warn("InvalidSchedule", "invalid schedule: %s : time difference between two schedules is less than 1 second", p.cronJob.Spec.Schedule)
		return
	}
	p.again = next.Sub(p.now)
	earliest := p.cronJob.CreationTimestamp.Time
	if last := p.cronJob.Status.LastScheduleTime; last != nil {
		earliest = last.Time
	}
	deadline := p.cronJob.Spec.StartingDeadlineSeconds
	if deadline != nil {
		if limit := p.now.Add(-time.Duration(*deadline) * time.Second); limit.After(earliest) {
			earliest = limit.Add(-time.Nanosecond)
		}
	}
	at, missed := due(schedule, earliest, p.now)
	if at.IsZero() {
		return
	}
	if missed > tooMany {
		p.warn("TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	p.run(at)
}

func (p *planning) run(at time.Time) {
	for _, job := range p.jobs {
		if scheduledAt(job).Equal(at) { // started by a pass whose status was lost
			p.next.LastScheduleTime = ptr.To(metav1.NewTime(at))
			return
		}
	}
	if len(p.next.Active) > 0 {
		switch p.cronJob.Spec.ConcurrencyPolicy {
		case batchv1.ForbidConcurrent:
			p.tell("JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
			return
		case batchv1.ReplaceConcurrent:
			for _, job := range p.jobs {
				if runs(p.next.Active, job) && job.DeletionTimestamp == nil {
					p.replace = append(p.replace, job)
				}
			}
			p.next.Active = nil
		}
	}
	p.create = jobOf(p.cronJob, at)
	p.next.LastScheduleTime = ptr.To(metav1.NewTime(at))
}

func runs(active []corev1.ObjectReference, job *batchv1.Job) bool {
	return slices.ContainsFunc(active, func(ref corev1.ObjectReference) bool { return ref.UID == job.UID })
}

// jobOf is the Job of a scheduled time.
func jobOf(cj *batchv1.CronJob, at time.Time) *batchv1.Job {
	t := cj.Spec.JobTemplate.DeepCopy()
	annotations := maps.Clone(t.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.UTC().Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       cj.Namespace,
			Name:            cj.Name + "-" + strconv.FormatInt(at.Unix()/60, 10),
			Labels:          t.Labels,
			Annotations:     annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, kind)},
		},
		Spec: t.Spec,
	}
}
