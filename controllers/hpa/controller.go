package hpa

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
	"kontiki/controllers/scaletarget"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "hpa"
	Component = "horizontal-pod-autoscaler"
	workers   = 5
	// period is how often each autoscaler is looked at.
	period = 15 * time.Second
)

var errSelectorRequired = errors.New("selector is required")

// Controller keeps sizes.
type Controller struct {
	client  kubernetes.Interface
	targets *scaletarget.Targets
	metrics Metrics
	events  record.EventRecorder
	log     *slog.Logger
	now     func() time.Time

	hpas         autoscalinglisters.HorizontalPodAutoscalerLister
	pods         corelisters.PodLister
	hpaInformer  cache.SharedIndexInformer
	podsInformer cache.SharedIndexInformer
	loop         *loop.Loop

	mu       sync.Mutex // protects the two below
	memories map[string]memory
	selected map[string]selection // what each autoscaler selects
}

type selection struct {
	namespace string
	selector  labels.Selector
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, targets *scaletarget.Targets, metrics Metrics, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	hpas, pods := shared.Autoscaling().V2().HorizontalPodAutoscalers(), shared.Core().V1().Pods()
	return &Controller{
		client: client, targets: targets, metrics: metrics, events: events, log: log.With("controller", Name), now: now,
		hpas: hpas.Lister(), pods: pods.Lister(), hpaInformer: hpas.Informer(), podsInformer: pods.Informer(),
		loop:     loop.New(Name, log),
		memories: map[string]memory{}, selected: map[string]selection{},
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := loop.On(c.loop, c.hpaInformer, func(before, after *autoscalingv2.HorizontalPodAutoscaler) {
		switch {
		case after == nil:
			c.loop.AddObject(before) // the worker that has it now may yet remember it
		case before == nil || before.Generation != after.Generation:
			c.loop.AddObject(after)
		}
	})
	if err != nil {
		return err
	}
	if !cache.WaitForCacheSync(ctx.Done(), c.podsInformer.HasSynced) {
		return nil
	}
	return c.loop.Run(ctx, workers, c.sync)
}

// forget drops what is known of an autoscaler that is gone. Only the worker that has
// its key may call it.
func (c *Controller) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.memories, key)
	delete(c.selected, key)
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	hpa, err := c.hpas.HorizontalPodAutoscalers(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	// The time alone brings the next look, also after an error, as upstream.
	defer c.loop.AddAfter(key, period)
	w := world{hpa: hpa, now: c.now()}
	var resource schema.GroupResource
	ref := hpa.Spec.ScaleTargetRef
	w.scale, resource, w.scaleErr = c.targets.Get(ctx, namespace, ref.APIVersion, ref.Kind, ref.Name)
	c.mu.Lock()
	w.memory = c.memories[key]
	c.mu.Unlock()
	if err := c.look(ctx, key, &w); err != nil {
		return err
	}
	o := plan(w)
	if o.resize != nil {
		scale := w.scale.DeepCopy()
		scale.Spec.Replicas = *o.resize
		err = c.targets.Update(ctx, namespace, resource, scale)
		o.resized(&w, err)
	}
	c.mu.Lock()
	c.memories[key] = o.memory
	c.mu.Unlock()
	return errors.Join(err, c.tell(ctx, &w, &o))
}

// look finds the pods and reads the metrics, as far as it is clear which.
func (c *Controller) look(ctx context.Context, key string, w *world) error {
	w.readings = make([]reading, len(w.hpa.Spec.Metrics))
	if w.scaleErr != nil || w.scale.Status.Selector == "" {
		return nil
	}
	selector, err := labels.Parse(w.scale.Status.Selector)
	if err != nil {
		w.selectorErr = err
		return nil
	}
	if w.pods, err = c.pods.Pods(w.hpa.Namespace).List(selector); err != nil {
		return err
	}
	w.rivals = c.rivals(key, w.hpa.Namespace, selector, w.pods)
	if len(w.rivals) > 1 {
		return nil
	}
	for i, spec := range w.hpa.Spec.Metrics {
		w.readings[i] = c.metrics.read(ctx, w.hpa.Namespace, selector, spec)
	}
	return ctx.Err()
}

// rivals are the autoscalers that select one of the pods.
func (c *Controller) rivals(key, namespace string, selector labels.Selector, pods []*corev1.Pod) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.selected[key] = selection{namespace, selector}
	var names []string
	for other, s := range c.selected {
		if s.namespace != namespace {
			continue
		}
		for _, pod := range pods {
			if s.selector.Matches(labels.Set(pod.Labels)) {
				names = append(names, other)
				break
			}
		}
	}
	slices.Sort(names)
	return names
}

// tell writes the status and says the events.
func (c *Controller) tell(ctx context.Context, w *world, o *outcome) error {
	for _, e := range o.events {
		c.events.Event(w.hpa, e.kind, e.reason, e.message)
	}
	if o.problem != nil {
		c.log.Debug("autoscaler cannot be followed", "hpa", w.hpa.Namespace+"/"+w.hpa.Name, "error", o.problem)
	}
	if !o.changed(w) {
		return nil
	}
	update := w.hpa.DeepCopy()
	update.Status = *o.status
	_, err := c.client.AutoscalingV2().HorizontalPodAutoscalers(w.hpa.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
	if err != nil {
		if !loop.Expected(err) {
			c.events.Event(w.hpa, corev1.EventTypeWarning, "FailedUpdateStatus", err.Error())
		}
		return fmt.Errorf("update status of HorizontalPodAutoscaler %s/%s: %w", w.hpa.Namespace, w.hpa.Name, err)
	}
	return nil
}
