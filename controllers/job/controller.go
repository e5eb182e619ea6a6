// Package job runs pods to completion: as many as each Job asks for, one per index
// where it is Indexed, with back-off, and counts those that ended exactly once.
//
// plan.go, track.go, manage.go and policy.go decide and are pure; controller.go does.
// Several workers run, a Job is handled by one at a time. Only controllers imports
// this package.
package job

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"kontiki/controllers/loop"
	"kontiki/controllers/pending"
	"kontiki/controllers/podcontrol"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "job"
	Component = "job-controller"
	workers   = 5
)

// longestPrefix is how much of a generateName the API keeps: the index is not to be cut off.
const longestPrefix = 58

const finalizer = batchv1.JobTrackingFinalizer

// orphan marks the key of a pod that lost its Job with the finalizer still on it.
const orphan = "orphan|"

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

// Controller runs Jobs.
type Controller struct {
	client   kubernetes.Interface
	events   record.EventRecorder
	log      *slog.Logger
	informer cache.SharedIndexInformer
	jobs     batchlisters.JobLister
	podList  corelisters.PodLister
	pods     *podcontrol.Control
	loop     *loop.Loop
}

// New makes the controller on shared informers (the pod informer with
// podview.Indexers).
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	jobs := shared.Batch().V1().Jobs()
	return &Controller{
		client: client, events: events, log: log,
		informer: jobs.Informer(), jobs: jobs.Lister(), podList: shared.Core().V1().Pods().Lister(),
		pods: &podcontrol.Control{
			Kind: kind, Client: client, Pods: shared.Core().V1().Pods().Informer(), Events: events,
			Writes: pending.New(), Now: now, Finalizer: finalizer,
			Fresh: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
				return client.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
			},
		},
		loop: loop.New(Name, log),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.loop.OnObject(c.informer); err != nil {
		return err
	}
	err := c.pods.OnPods(c.loop, func(pod *corev1.Pod) []string {
		jobs, err := c.jobs.Jobs(pod.Namespace).List(labels.Everything())
		if err != nil {
			return nil
		}
		keys := podcontrol.Matching(pod, jobs, func(j *batchv1.Job) *metav1.LabelSelector { return j.Spec.Selector })
		if len(keys) == 0 && hasFinalizer(pod) {
			keys = append(keys, orphan+podcontrol.Key(pod))
		}
		return keys
	})
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

func (c *Controller) sync(ctx context.Context, key string) error {
	if name, ok := strings.CutPrefix(key, orphan); ok {
		return c.freeOrphan(ctx, name)
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	job, err := c.jobs.Jobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.pods.Writes.Forget(key)
		return c.freeAll(ctx, namespace, name)
	}
	if err != nil {
		return err
	}
	if ptr.Deref(job.Spec.ManagedBy, batchv1.JobControllerName) != batchv1.JobControllerName {
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil || selector.Empty() {
		c.log.Error("selector is not valid", "controller", Name, "job", key, "error", err)
		return nil
	}
	w := world{job: job, settled: c.pods.Settled(job), now: c.pods.Now()}
	if w.pods, err = c.pods.Claim(ctx, job, podcontrol.BySelector(selector)); err != nil {
		return err
	}
	todo := plan(w)
	if todo.again > 0 {
		c.loop.AddAfter(key, todo.again)
	}
	return c.do(ctx, job, todo)
}

func (c *Controller) do(ctx context.Context, job *batchv1.Job, todo actions) error {
	if todo.expire {
		options := metav1.NewPreconditionDeleteOptions(string(job.UID))
		options.Preconditions.ResourceVersion = &job.ResourceVersion
		options.PropagationPolicy = ptr.To(metav1.DeletePropagationForeground)
		return loop.IgnoreNotFound(c.client.BatchV1().Jobs(job.Namespace).Delete(ctx, job.Name, *options))
	}
	failure := podcontrol.Each(todo.remove, func(pod *corev1.Pod) error {
		if !todo.count && hasFinalizer(pod) {
			if err := c.free(ctx, pod); err != nil {
				return err
			}
		}
		return c.pods.Delete(ctx, job, pod)
	})
	if failure == nil {
		_, failure = podcontrol.SlowStart(len(todo.create), func(i int) error { return c.pods.Create(ctx, job, c.podOf(job, todo.create[i])) })
	}
	if todo.status != nil {
		update := job.DeepCopy()
		update.Status = *todo.status
		if _, err := c.client.BatchV1().Jobs(job.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{}); err != nil {
			return err
		}
		for _, e := range todo.events {
			c.events.Event(job, e.kind, e.reason, e.message)
		}
	}
	if err := podcontrol.Each(todo.free, func(pod *corev1.Pod) error { return c.free(ctx, pod) }); err != nil {
		return err
	}
	return failure
}

// free takes the finalizer off a pod.
func (c *Controller) free(ctx context.Context, pod *corev1.Pod) error {
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"$deleteFromPrimitiveList/finalizers":[%q]}}`, pod.UID, finalizer)
	_, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsConflict(err) { // another pod of that name
		return nil
	}
	return loop.IgnoreNotFound(err)
}

// freeAll frees the pods of a Job that is gone, of which the API itself is asked.
func (c *Controller) freeAll(ctx context.Context, namespace, name string) error {
	pods, err := c.podList.Pods(namespace).List(labels.Everything())
	if err != nil {
		return err
	}
	var held []*corev1.Pod
	for _, pod := range pods {
		if owner := metav1.GetControllerOfNoCopy(pod); hasFinalizer(pod) && owner != nil && owner.Kind == kind.Kind && owner.Name == name {
			held = append(held, pod)
		}
	}
	if len(held) == 0 {
		return nil
	}
	fresh, err := c.client.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return podcontrol.Each(held, func(pod *corev1.Pod) error {
		if err == nil && metav1.GetControllerOfNoCopy(pod).UID == fresh.UID {
			return nil // only the cache does not have it yet
		}
		return c.free(ctx, pod)
	})
}

func (c *Controller) freeOrphan(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	pod, err := c.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return loop.IgnoreNotFound(err)
	}
	if metav1.GetControllerOfNoCopy(pod) != nil || !hasFinalizer(pod) {
		return nil
	}
	return c.free(ctx, pod)
}

// podOf is the pod for a slot.
func (c *Controller) podOf(job *batchv1.Job, s slot) *corev1.Pod {
	pod := c.pods.PodOf(job, &job.Spec.Template)
	pod.Finalizers = append(pod.Finalizers, finalizer)
	if s.index < 0 {
		return pod
	}
	index := strconv.Itoa(s.index)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Annotations[batchv1.JobCompletionIndexAnnotation], pod.Labels[batchv1.JobCompletionIndexAnnotation] = index, index
	if perIndex(job) {
		pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(s.failures)
		if s.ignored > 0 {
			pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(s.ignored)
		}
	}
	suffix := "-" + index + "-"
	pod.GenerateName = job.Name[:min(len(job.Name), longestPrefix-len(suffix))] + suffix
	pod.Spec.Hostname = job.Name + "-" + index
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			containers[i].Env = withIndex(containers[i].Env)
		}
	}
	return pod
}

func withIndex(env []corev1.EnvVar) []corev1.EnvVar {
	const name = "JOB_COMPLETION_INDEX"
	for _, e := range env {
		if e.Name == name {
			return env
		}
	}
	return append(env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
		FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']",
	}}})
}
