package job

import (
	"cmp"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kontiki/controllers/podview"
)

const (
	maxChanges   = 500 // pods made, deleted or counted in one pass
	firstBackoff = 10 * time.Second
	lastBackoff  = 10 * time.Minute
)

// world is what is known of one Job. settled says that the pods show all that was
// written before: only then are pods made or deleted.
type world struct {
	job     *batchv1.Job
	pods    []*corev1.Pod // it owns
	settled bool
	now     time.Time
}

// actions are carried out in this order. The finalizers of uncounted pods are taken
// off only when a status that holds their UIDs has been written, and UIDs move into
// the counts only when the finalizer is gone: whatever is lost in between, each pod
// is counted once.
type actions struct {
	remove []*corev1.Pod // active ones, to delete
	count  bool          // those count as failed; else their finalizers are taken off first
	create []slot
	status *batchv1.JobStatus // nil: as it is
	free   []*corev1.Pod      // take the finalizer off
	expire bool               // delete the Job
	again  time.Duration
	events []event
}

// slot is a pod to make. With backoffLimitPerIndex it tells how often its index has failed so
// far, and how often that was ignored.
type slot struct {
	index             int // -1 where pods have none
	failures, ignored int
}

type event struct{ kind, reason, message string }

// planning is one planning.
type planning struct {
	world
	actions
	next        batchv1.JobStatus
	completed   indexes // Indexed only
	failed      indexes // with backoffLimitPerIndex only
	active      []*corev1.Pod
	terminating []*corev1.Pod
	newlyFailed map[types.UID]verdict // failed pods not counted before
	failJob     string                // message of the rule that fails the Job
	keep        map[types.UID]bool    // failed pods whose index has no other to remember its failures
}

func plan(w world) actions {
	p := planning{world: w, newlyFailed: map[types.UID]verdict{}, keep: map[types.UID]bool{}}
	p.next = *w.job.Status.DeepCopy()
	if w.job.DeletionTimestamp != nil {
		p.free = tracked(w.pods)
		return p.actions
	}
	if finished(w.job) {
		p.free = tracked(w.pods)
		p.expireIfDue()
		return p.actions
	}
	p.completed = parseIndexes(p.next.CompletedIndexes, completions(w.job))
	p.failed = parseIndexes(ptr.Deref(p.next.FailedIndexes, ""), completions(w.job))
	p.begin()
	p.sort()
	p.track()
	p.judgeJob()
	if w.settled {
		p.manage()
	}
	p.finish()
	p.tell()
	return p.actions
}

func indexed(job *batchv1.Job) bool {
	return job.Spec.CompletionMode != nil && *job.Spec.CompletionMode == batchv1.IndexedCompletion
}

func perIndex(job *batchv1.Job) bool { return job.Spec.BackoffLimitPerIndex != nil }

func completions(job *batchv1.Job) int { return int(ptr.Deref(job.Spec.Completions, 0)) }

func suspended(job *batchv1.Job) bool { return ptr.Deref(job.Spec.Suspend, false) }

func hasFinalizer(pod *corev1.Pod) bool { return slices.Contains(pod.Finalizers, finalizer) }

func tracked(pods []*corev1.Pod) []*corev1.Pod {
	var all []*corev1.Pod
	for _, pod := range pods {
		if hasFinalizer(pod) && len(all) < maxChanges {
			all = append(all, pod)
		}
	}
	return all
}

func condition(s *batchv1.JobStatus, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind && s.Conditions[i].Status == corev1.ConditionTrue {
			return &s.Conditions[i]
		}
	}
	return nil
}

func finished(job *batchv1.Job) bool {
	return condition(&job.Status, batchv1.JobComplete) != nil || condition(&job.Status, batchv1.JobFailed) != nil
}

func (p *planning) set(kind batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) {
	c := batchv1.JobCondition{Type: kind, Status: status, Reason: reason, Message: message,
		LastProbeTime: metav1.NewTime(p.now), LastTransitionTime: metav1.NewTime(p.now)}
	for i := range p.next.Conditions {
		if p.next.Conditions[i].Type == kind {
			if p.next.Conditions[i].Status != status || p.next.Conditions[i].Reason != reason {
				p.next.Conditions[i] = c
			}
			return
		}
	}
	p.next.Conditions = append(p.next.Conditions, c)
}

func (p *planning) wake(after time.Duration) {
	if after = max(after, time.Millisecond); p.again == 0 || after < p.again {
		p.again = after
	}
}

func (p *planning) expireIfDue() {
	ttl := p.job.Spec.TTLSecondsAfterFinished
	if ttl == nil {
		return
	}
	var at time.Time
	for _, c := range p.job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			at = c.LastTransitionTime.Add(time.Duration(*ttl) * time.Second)
		}
	}
	if left := at.Sub(p.now); left > 0 {
		p.wake(left)
		return
	}
	p.expire = true
}

// begin keeps the start time, which suspension takes away, and the condition.
func (p *planning) begin() {
	if suspended(p.job) {
		if c := condition(&p.next, batchv1.JobSuspended); c == nil {
			p.events = append(p.events, event{corev1.EventTypeNormal, "Suspended", "Job suspended"})
		}
		p.set(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended")
		p.next.StartTime = nil
		return
	}
	if p.next.StartTime == nil {
		p.next.StartTime = ptr.To(metav1.NewTime(p.now))
	}
	if condition(&p.next, batchv1.JobSuspended) != nil {
		p.set(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
		p.events = append(p.events, event{corev1.EventTypeNormal, "Resumed", "Job resumed"})
	}
}

// ended says whether a pod counts as failed: it failed, or it is on its way out and
// is not waited for.
func (p *planning) ended(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed {
		return true
	}
	waits := p.job.Spec.PodReplacementPolicy != nil && *p.job.Spec.PodReplacementPolicy == batchv1.Failed || p.job.Spec.PodFailurePolicy != nil
	return pod.DeletionTimestamp != nil && !waits && pod.Status.Phase != corev1.PodSucceeded
}

func (p *planning) sort() {
	ready := int32(0)
	for _, pod := range p.pods {
		switch {
		case podview.Active(pod):
			p.active = append(p.active, pod)
			if podview.Ready(pod) {
				ready++
			}
		case !podview.Finished(pod):
			p.terminating = append(p.terminating, pod)
		}
	}
	slices.SortFunc(p.active, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Time.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	p.next.Ready = &ready
}

// judgeJob decides whether the Job is over: the criteria first, the final condition
// when no pod is left and all are counted.
func (p *planning) judgeJob() {
	if condition(&p.next, batchv1.JobFailureTarget) != nil || condition(&p.next, batchv1.JobSuccessCriteriaMet) != nil {
		return
	}
	failures := int(p.next.Failed)
	if u := p.next.UncountedTerminatedPods; u != nil {
		failures += len(u.Failed)
	}
	limit := int(ptr.Deref(p.job.Spec.BackoffLimit, 6))
	switch deadline := p.deadline(); {
	case p.failJob != "":
		p.fail(batchv1.JobReasonPodFailurePolicy, p.failJob)
	case failures > limit || p.restarts() >= max(limit, 1): // upstream counts the two differently
		p.fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	case deadline <= 0:
		p.fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	case p.job.Spec.MaxFailedIndexes != nil && len(p.failed) > int(*p.job.Spec.MaxFailedIndexes):
		p.fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
	default:
		if deadline < forever {
			p.wake(deadline)
		}
		p.judgeSuccess()
	}
}

func (p *planning) judgeSuccess() {
	if message, met := successMet(p.job, p.completed); met {
		p.set(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonSuccessPolicy, message)
		return
	}
	done := p.succeeded()
	switch {
	case p.job.Spec.Completions == nil:
		if done == 0 || len(p.active)+len(p.terminating) > 0 {
			return
		}
	case indexed(p.job) && len(p.failed) > 0 && len(p.failed)+len(p.completed) >= completions(p.job):
		p.fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
		return
	case done < completions(p.job):
		return
	default:
		if len(p.active) > 0 {
			p.warn("TooManyActivePods", "Too many active pods running after completion count reached")
		}
		if done > completions(p.job) {
			p.warn("TooManySucceededPods", "Too many succeeded pods running after completion count reached")
		}
	}
	p.set(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
}

func (p *planning) warn(reason, message string) {
	p.events = append(p.events, event{corev1.EventTypeWarning, reason, message})
}

func (p *planning) fail(reason, message string) {
	p.set(batchv1.JobFailureTarget, corev1.ConditionTrue, reason, message)
}

const forever = time.Duration(1<<63 - 1)

// deadline is what is left of activeDeadlineSeconds.
func (p *planning) deadline() time.Duration {
	if p.job.Spec.ActiveDeadlineSeconds == nil || p.next.StartTime == nil {
		return forever
	}
	return p.next.StartTime.Add(time.Duration(*p.job.Spec.ActiveDeadlineSeconds) * time.Second).Sub(p.now)
}

// restarts counts container restarts of running pods, which with restartPolicy
// OnFailure are the tries.
func (p *planning) restarts() (n int) {
	if p.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return 0
	}
	for _, pod := range p.active {
		for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			n += int(s.RestartCount)
		}
	}
	return n
}

func (p *planning) succeeded() int {
	if indexed(p.job) {
		return len(p.completed)
	}
	n := int(p.next.Succeeded)
	if u := p.next.UncountedTerminatedPods; u != nil {
		n += len(u.Succeeded)
	}
	return n
}

// finish writes the counts, and the final condition when everything is counted.
func (p *planning) finish() {
	s := &p.next
	s.Active = int32(len(p.active) - len(p.remove))
	s.Active += int32(len(p.create))
	s.Terminating = ptr.To(int32(len(p.terminating) + len(p.remove)))
	if len(p.active)+len(p.terminating) > 0 || len(p.create) > 0 || len(p.newlyFailed) > 0 || len(tracked(p.pods)) > 0 || uncounted(s) > 0 {
		return
	}
	if c := condition(s, batchv1.JobFailureTarget); c != nil {
		p.set(batchv1.JobFailed, corev1.ConditionTrue, c.Reason, c.Message)
		p.warn(c.Reason, c.Message)
	} else if c := condition(s, batchv1.JobSuccessCriteriaMet); c != nil {
		p.set(batchv1.JobComplete, corev1.ConditionTrue, c.Reason, c.Message)
		s.CompletionTime = ptr.To(metav1.NewTime(p.now))
		p.events = append(p.events, event{corev1.EventTypeNormal, "Completed", "Job completed"})
	}
}

func uncounted(s *batchv1.JobStatus) int {
	if s.UncountedTerminatedPods == nil {
		return 0
	}
	return len(s.UncountedTerminatedPods.Succeeded) + len(s.UncountedTerminatedPods.Failed)
}

func (p *planning) tell() {
	if !equality.Semantic.DeepEqual(p.job.Status, p.next) {
		p.status = &p.next
	}
}
