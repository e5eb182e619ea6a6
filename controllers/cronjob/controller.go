// Package cronjob starts Jobs at the times their CronJob names, once for each time
// whoever leads, and keeps as many finished ones as it is told.
//
// plan.go and schedule.go decide and are pure; controller.go does. Several workers
// run, a CronJob is handled by one at a time. Only controllers imports this package.
package cronjob

import (
	"context"
	"log/slog"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "cronjob"
	Component = "cronjob-controller"
	workers   = 2
)

// late keeps a wake-up from coming before its time.
const late = 100 * time.Millisecond

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// Controller starts Jobs.
type Controller struct {
	client           kubernetes.Interface
	events           record.EventRecorder
	now              func() time.Time
	cronJobsInformer cache.SharedIndexInformer
	jobsInformer     cache.SharedIndexInformer
	cronJobs         batchlisters.CronJobLister
	jobs             batchlisters.JobLister
	loop             *loop.Loop
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	batch := shared.Batch().V1()
	return &Controller{
		client: client, events: events, now: now,
		cronJobsInformer: batch.CronJobs().Informer(), jobsInformer: batch.Jobs().Informer(),
		cronJobs: batch.CronJobs().Lister(), jobs: batch.Jobs().Lister(),
		loop: loop.New(Name, log),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if err := loop.On(c.loop, c.cronJobsInformer, c.cronJobChanged); err != nil {
		return err
	}
	err := loop.On(c.loop, c.jobsInformer, func(before, after *batchv1.Job) {
		for _, job := range []*batchv1.Job{before, after} {
			if job == nil {
				continue
			}
			if owner := metav1.GetControllerOfNoCopy(job); owner != nil && owner.Kind == kind.Kind {
				c.loop.Add(job.Namespace + "/" + owner.Name)
			}
		}
	})
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

// cronJobChanged queues a CronJob; one of another schedule for the next time of that only.
// Times that would have been are none that were missed.
func (c *Controller) cronJobChanged(before, after *batchv1.CronJob) {
	if before != nil && after != nil && (before.Spec.Schedule != after.Spec.Schedule || !ptr.Equal(before.Spec.TimeZone, after.Spec.TimeZone)) {
		if schedule, err := scheduleOf(after); err == nil {
			if next := schedule.Next(c.now()); !next.IsZero() {
				c.loop.AddAfter(after.Namespace+"/"+after.Name, next.Sub(c.now())+late)
			}
			return
		}
	}
	if after == nil {
		after = before
	}
	c.loop.AddObject(after)
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	cj, err := c.cronJobs.CronJobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	w, err := c.look(ctx, cj, false)
	if err != nil {
		return loop.IgnoreNotFound(err) // the event of its deletion is on the way
	}
	todo := plan(w)
	if todo.create != nil {
		// That a time is done only the status tells, once its Job is gone: not a cache's.
		if w, err = c.look(ctx, cj, true); err != nil {
			return loop.IgnoreNotFound(err)
		}
		todo = plan(w)
	}
	if todo.again > 0 {
		c.loop.AddAfter(key, todo.again+late)
	}
	for _, e := range todo.events {
		c.events.Event(cj, e.kind, e.reason, e.message)
	}
	return c.do(ctx, w.cronJob, todo)
}

// look gathers the Jobs of a CronJob. Two caches, either of which may be behind the other,
// do not tell which of them run: a Job that is listed and not there may not be shown yet, and
// one that is there and not listed may be listed by now. anew has the API asked for the status.
func (c *Controller) look(ctx context.Context, cj *batchv1.CronJob, anew bool) (world, error) {
	w := world{cronJob: cj, now: c.now()}
	all, err := c.jobs.Jobs(cj.Namespace).List(labels.Everything())
	if err != nil {
		return w, err
	}
	for _, job := range all {
		if owner := metav1.GetControllerOfNoCopy(job); owner != nil && owner.UID == cj.UID {
			w.jobs = append(w.jobs, job)
			how, _ := ended(job)
			anew = anew || how == "" && !runs(cj.Status.Active, job)
		}
	}
	if anew {
		fresh, err := c.client.BatchV1().CronJobs(cj.Namespace).Get(ctx, cj.Name, metav1.GetOptions{})
		if err != nil {
			return w, err
		}
		if fresh.UID != cj.UID {
			return w, apierrors.NewNotFound(batchv1.Resource("cronjobs"), cj.Name)
		}
		w.cronJob = fresh
	}
	for _, ref := range w.cronJob.Status.Active {
		if slices.ContainsFunc(w.jobs, func(job *batchv1.Job) bool { return job.UID == ref.UID }) {
			continue
		}
		job, err := c.client.BatchV1().Jobs(cj.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), err == nil && job.UID != ref.UID:
		case err != nil:
			return w, err
		default:
			w.jobs = append(w.jobs, job)
		}
	}
	return w, nil
}

func (c *Controller) do(ctx context.Context, cj *batchv1.CronJob, todo actions) error {
	for _, job := range todo.replace {
		if err := c.delete(ctx, cj, job); err != nil {
			return err
		}
	}
	if todo.create != nil {
		made, err := c.create(ctx, cj, todo.create)
		if err != nil || made == nil {
			return err
		}
		todo.status.Active = append(todo.status.Active, reference(made))
	}
	if todo.status != nil {
		update := cj.DeepCopy()
		update.Status = *todo.status
		if _, err := c.client.BatchV1().CronJobs(cj.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	for _, job := range todo.remove {
		if err := c.delete(ctx, cj, job); err != nil {
			return err
		}
	}
	return nil
}

// create makes the Job of a time. One that exists was made by an earlier pass, if it
// is ours. It answers nil where nothing can be made any more.
func (c *Controller) create(ctx context.Context, cj *batchv1.CronJob, job *batchv1.Job) (*batchv1.Job, error) {
	made, err := c.client.BatchV1().Jobs(cj.Namespace).Create(ctx, job, metav1.CreateOptions{})
	switch {
	case err == nil:
		c.events.Eventf(cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", made.Name)
		return made, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, nil
	case apierrors.IsAlreadyExists(err):
		there, getErr := c.client.BatchV1().Jobs(cj.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
		if getErr != nil {
			return nil, getErr
		}
		if owner := metav1.GetControllerOfNoCopy(there); owner != nil && owner.UID == cj.UID {
			return there, nil
		}
	}
	c.events.Eventf(cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
	return nil, err
}

func (c *Controller) delete(ctx context.Context, cj *batchv1.CronJob, job *batchv1.Job) error {
	options := metav1.NewPreconditionDeleteOptions(string(job.UID))
	options.PropagationPolicy = ptr.To(metav1.DeletePropagationBackground)
	err := c.client.BatchV1().Jobs(job.Namespace).Delete(ctx, job.Name, *options)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		c.events.Eventf(cj, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return err
	}
	c.events.Eventf(cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", job.Name)
	return nil
}
