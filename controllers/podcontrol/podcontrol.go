// Package podcontrol is how a controller owns pods: which it claims by selector,
// how it makes and deletes them, and how it remembers that its cache does not show
// that yet. What to make and delete, each controller's planner decides.
//
// A Control may be used from many goroutines, its fields are not changed after it is
// made. Only controllers import this package.
package podcontrol

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
	"kontiki/controllers/pending"
	"kontiki/controllers/podview"
)

// Owner is an object that owns pods.
type Owner interface {
	metav1.Object
	runtime.Object
}

// Control makes, deletes and claims the pods of one kind of owner.
type Control struct {
	Kind      schema.GroupVersionKind
	Client    kubernetes.Interface
	Pods      cache.SharedIndexInformer // with podview.Indexers
	Events    record.EventRecorder
	Writes    *pending.Writes
	Now       func() time.Time
	Finalizer string // put on every pod made or adopted; empty for none

	// Fresh reads an owner from the API, not from a cache.
	Fresh func(ctx context.Context, namespace, name string) (metav1.Object, error)

	// Says is what an event at the owner says of a pod that was made or deleted (verb is Create or
	// Delete), or of why it was not. nil: what all kinds but StatefulSets say.
	Says func(owner Owner, verb, pod string, err error) string
}

// says tells a pod's making or deletion as an event of upstream's has it.
func (c *Control) says(owner Owner, verb, pod string, err error) string {
	switch {
	case c.Says != nil:
		return c.Says(owner, verb, pod, err)
	case verb == "Create" && err == nil:
		return "Created pod: " + pod
	case verb == "Create":
		return fmt.Sprintf("Error creating: %v", err)
	case err == nil:
		return "Deleted pod: " + pod
	default:
		return fmt.Sprintf("Error deleting: %v", err)
	}
}

// Refusal is a create or delete the API refused, with the reason a condition shows.
type Refusal struct {
	Reason string
	Err    error
}

func (r Refusal) Error() string { return r.Err.Error() }
func (r Refusal) Unwrap() error { return r.Err }

// Trouble tells a refusal's reason and message; empty for any other error.
func Trouble(err error) (reason, message string) {
	var r Refusal
	if errors.As(err, &r) {
		return r.Reason, r.Err.Error()
	}
	return "", ""
}

// Settled says whether the pod cache shows all that was written for the owner.
func (c *Control) Settled(owner Owner) bool {
	return c.Writes.Settled(Key(owner), c.Pods.GetIndexer(), func(uid types.UID) bool { return c.living(owner, uid) }, c.Now())
}

func (c *Control) living(owner Owner, uid types.UID) bool {
	pods, err := podview.Owned(c.Pods.GetIndexer(), owner.GetUID())
	if err != nil {
		return true
	}
	for _, pod := range pods {
		if pod.UID == uid {
			return pod.DeletionTimestamp == nil
		}
	}
	return false
}

// Key is the namespace/name of an object.
func Key(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

// Create makes a pod for the owner. A namespace that is being deleted is no error.
func (c *Control) Create(ctx context.Context, owner Owner, pod *corev1.Pod) error {
	made, err := c.Client.CoreV1().Pods(owner.GetNamespace()).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be created here any more
		}
		c.Events.Event(owner, corev1.EventTypeWarning, "FailedCreate", c.says(owner, "Create", pod.Name, err))
		return Refusal{"FailedCreate", err}
	}
	c.Writes.Created(Key(owner), made, c.Now())
	c.Events.Event(owner, corev1.EventTypeNormal, "SuccessfulCreate", c.says(owner, "Create", made.Name, nil))
	return nil
}

// Delete deletes a pod of the owner with its own grace period.
func (c *Control) Delete(ctx context.Context, owner Owner, pod *corev1.Pod) error {
	err := c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *metav1.NewPreconditionDeleteOptions(string(pod.UID)))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		c.Events.Event(owner, corev1.EventTypeWarning, "FailedDelete", c.says(owner, "Delete", pod.Name, err))
		return Refusal{"FailedDelete", err}
	}
	c.Writes.Deleted(Key(owner), pod.UID, c.Now())
	c.Events.Event(owner, corev1.EventTypeNormal, "SuccessfulDelete", c.says(owner, "Delete", pod.Name, nil))
	return nil
}

// PodOf is the pod a template asks for, named by the API.
func (c *Control) PodOf(owner Owner, template *corev1.PodTemplateSpec) *corev1.Pod {
	return PodOf(owner, c.Kind, template)
}

// PodOf is the pod a template asks for, named by the API.
func PodOf(owner Owner, kind schema.GroupVersionKind, template *corev1.PodTemplateSpec) *corev1.Pod {
	t := template.DeepCopy()
	prefix := owner.GetName() + "-"
	if len(validation.NameIsDNSSubdomain(strings.TrimSuffix(prefix, "-"), true)) != 0 {
		prefix = owner.GetName()
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			GenerateName:    prefix,
			Labels:          t.Labels,
			Annotations:     t.Annotations,
			Finalizers:      t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Spec: t.Spec,
	}
}

// OnPods queues the owner of a pod that changed; for an orphan, the keys that
// matching finds.
func (c *Control) OnPods(l *loop.Loop, matching func(*corev1.Pod) []string) error {
	addOwner := func(pod *corev1.Pod) {
		if owner := metav1.GetControllerOfNoCopy(pod); owner != nil && owner.Kind == c.Kind.Kind && owner.APIVersion == c.Kind.GroupVersion().String() {
			l.Add(pod.Namespace + "/" + owner.Name)
		}
	}
	return loop.On(l, c.Pods, func(before, after *corev1.Pod) {
		if before != nil {
			addOwner(before)
		}
		if after == nil {
			return
		}
		if metav1.GetControllerOfNoCopy(after) != nil {
			addOwner(after)
			return
		}
		for _, key := range matching(after) {
			l.Add(key)
		}
	})
}

// Matching are the keys of those owners whose selector matches the pod.
func Matching[T Owner](pod *corev1.Pod, owners []T, selector func(T) *metav1.LabelSelector) []string {
	var keys []string
	for _, owner := range owners {
		s, err := metav1.LabelSelectorAsSelector(selector(owner))
		if err == nil && !s.Empty() && BySelector(s)(pod) {
			keys = append(keys, Key(owner))
		}
	}
	return keys
}
