// Package podgc removes pods nobody else will: those bound to nodes that do not
// exist (any more), those deleted on nodes that are out of service, or before they were
// ever scheduled, and the oldest finished ones beyond a threshold.
//
// plan.go decides and is pure; controller.go does, with one worker. Only
// controllers imports this package.
package podgc

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"kontiki/controllers/loop"
	"kontiki/controllers/podview"
)

// Name is the controller's name in logs.
const (
	Name = "podgc"

	allPods    = "pods"           // the only key
	threshold  = 12500            // finished pods kept, upstream's default
	quarantine = 40 * time.Second // of a node that is missing
	// gather is how long changes are gathered before all pods are looked at.
	gather = time.Second
)

// Controller removes left-over pods.
type Controller struct {
	client kubernetes.Interface
	log    *slog.Logger
	now    func() time.Time

	podInformer, nodeInformer cache.SharedIndexInformer

	pods  corelisters.PodLister
	nodes corelisters.NodeLister
	loop  *loop.Loop

	missing map[string]time.Time // of the one worker: by node name
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger, now func() time.Time) *Controller {
	core := shared.Core().V1()
	return &Controller{
		client: client, log: log.With("controller", Name), now: now,
		podInformer: core.Pods().Informer(), nodeInformer: core.Nodes().Informer(),
		pods: core.Pods().Lister(), nodes: core.Nodes().Lister(),
		loop:    loop.New(Name, log),
		missing: map[string]time.Time{},
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := loop.On(c.loop, c.podInformer, func(_, after *corev1.Pod) {
		if after != nil && (podview.Finished(after) || after.DeletionTimestamp != nil || c.nodeMissing(after)) {
			c.loop.AddAfter(allPods, gather)
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.nodeInformer, func(before, after *corev1.Node) {
		if before == nil || after == nil || outOfService(before) != outOfService(after) {
			c.loop.AddAfter(allPods, gather)
		}
	})
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, 1, c.sync)
}

func (c *Controller) nodeMissing(pod *corev1.Pod) bool {
	if pod.Spec.NodeName == "" {
		return false
	}
	_, err := c.nodes.Get(pod.Spec.NodeName)
	return err != nil
}

func (c *Controller) sync(ctx context.Context, _ string) error {
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	c.lookForNodes(pods)
	out, err := c.nodesOut()
	if err != nil {
		return err
	}
	victims, again := plan(pods, c.missing, out, threshold, quarantine, c.now())
	if again > 0 {
		c.loop.AddAfter(allPods, again)
	}
	confirmed := map[string]bool{} // by reason and node
	var failures []error
	for _, v := range victims {
		key := string(v.why) + "/" + v.pod.Spec.NodeName
		sure, asked := confirmed[key]
		if !asked {
			if sure, err = c.confirm(ctx, v); err != nil {
				failures = append(failures, err)
				continue
			}
			confirmed[key] = sure
		}
		if sure {
			failures = append(failures, c.remove(ctx, v))
		}
	}
	return errors.Join(failures...)
}

// lookForNodes keeps since when nodes that have pods do not exist.
func (c *Controller) lookForNodes(pods []*corev1.Pod) {
	missing := map[string]time.Time{}
	for _, pod := range pods {
		if name := pod.Spec.NodeName; c.nodeMissing(pod) {
			if since, ok := c.missing[name]; ok {
				missing[name] = since
			} else {
				missing[name] = c.now()
			}
		}
	}
	c.missing = missing
}

// nodesOut are the nodes that are out of service.
func (c *Controller) nodesOut() (map[string]bool, error) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, node := range nodes {
		if outOfService(node) {
			out[node.Name] = true
		}
	}
	return out, nil
}

// confirm asks the API itself about the node of a pod that is removed for good on its account.
func (c *Controller) confirm(ctx context.Context, v victim) (bool, error) {
	if v.why != orphaned && v.why != stranded {
		return true, nil
	}
	node, err := c.client.CoreV1().Nodes().Get(ctx, v.pod.Spec.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return v.why == orphaned, nil
	}
	return err == nil && v.why == stranded && outOfService(node), err
}

func (c *Controller) remove(ctx context.Context, v victim) error {
	pod := v.pod
	c.log.Info("removing pod", "pod", pod.Namespace+"/"+pod.Name, "why", string(v.why))
	if v.why != terminated && !podview.Finished(pod) {
		if err := c.markFailed(ctx, v); err != nil {
			return err
		}
	}
	options := metav1.NewPreconditionDeleteOptions(string(pod.UID))
	options.GracePeriodSeconds = ptr.To[int64](0)
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *options)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// markFailed sets phase Failed, so that whoever counts outcomes sees one.
func (c *Controller) markFailed(ctx context.Context, v victim) error {
	status := map[string]any{"phase": corev1.PodFailed}
	if v.why == orphaned {
		status["conditions"] = []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC",
			Message: "PodGC: node no longer exists", LastTransitionTime: metav1.NewTime(c.now()),
		}}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": v.pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(v.pod.Namespace).Patch(ctx, v.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
