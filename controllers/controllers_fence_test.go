package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

// term is a leader's way to the API: it can be stopped before a write, as a process
// that is paused is, and ends, after which its writes are refused, as the store does.
type term struct {
	*fake.Clientset
	mu      sync.Mutex // protects all below
	left    int        // writes until it stops; never if negative
	stopped bool
	refused int

	resume chan struct{} // closed when the term is over and the process goes on
}

func (c *cluster) term() *term {
	l := &term{Clientset: fake.NewClientset(), left: -1, resume: make(chan struct{})}
	l.Resources = servedResources()
	l.PrependReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if !slices.Contains([]string{"get", "list"}, action.GetVerb()) {
			if err := l.pass(); err != nil {
				return true, nil, err
			}
		}
		obj, err := c.Invokes(action, nil)
		return true, obj, err
	})
	l.PrependWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		w, err := c.InvokesWatch(action)
		return true, w, err
	})
	return l
}

// pass lets a write through, stops it, or refuses it.
func (l *term) pass() error {
	l.mu.Lock()
	if l.left > 0 {
		l.left--
	}
	stop := l.left == 0
	l.stopped = l.stopped || stop
	l.mu.Unlock()
	if !stop {
		return nil
	}
	<-l.resume
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused++
	return apierrors.NewInternalError(errors.New("the term is over"))
}

func (l *term) stopAfter(writes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = writes + 1
}

// TestALeaderThatWasPausedInARolloutChangesNothing: whatever write of a rollout the old
// leader is stopped before, the next one ends the rollout and another; when the old one
// goes on, with the plans and caches that it had, nothing is other than before.
func TestALeaderThatWasPausedInARolloutChangesNothing(t *testing.T) {
	for _, writes := range []int{0, 2} {
		t.Run(fmt.Sprint("before write ", writes), func(t *testing.T) { pausedBefore(t, writes) })
	}
}

func pausedBefore(t *testing.T, writes int) {
	c, ctx := newCluster(t, node("a"), node("b"), node("c")), context.Background()
	old := c.term()
	c.lead(old)
	deployments := c.AppsV1().Deployments("default")
	_, err := deployments.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](3), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template("web"),
			ProgressDeadlineSeconds: ptr.To[int32](600), RevisionHistoryLimit: ptr.To[int32](10),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(1))}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rolledOut := func(image string) func() bool {
		return func() bool {
			d, err := deployments.Get(ctx, "web", metav1.GetOptions{})
			pods := c.pods()
			return err == nil && d.Status.UpdatedReplicas == 3 && d.Status.Replicas == 3 && d.Status.AvailableReplicas == 3 && len(pods) == 3 &&
				!slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Spec.Containers[0].Image != image })
		}
	}
	c.eventually("the first rollout", rolledOut("example/web"))
	old.stopAfter(writes)
	c.rollOut("example/web:2")
	c.eventually("the old leader to be stopped before a write", func() bool {
		old.mu.Lock()
		defer old.mu.Unlock()
		return old.stopped
	})
	c.lead(c.term())
	c.eventually("the second rollout, by the new leader", rolledOut("example/web:2"))
	c.rollOut("example/web:3")
	c.eventually("the third rollout, by the new leader", rolledOut("example/web:3"))
	before := c.uids()
	close(old.resume)
	c.eventually("a write of the old leader to be refused", func() bool {
		old.mu.Lock()
		defer old.mu.Unlock()
		return old.refused > 0
	})
	if !rolledOut("example/web:3")() || !slices.Equal(before, c.uids()) {
		t.Errorf("pods were %v, are %v", before, c.uids())
	}
}

func (c *cluster) rollOut(image string) {
	c.t.Helper()
	for {
		d, err := c.AppsV1().Deployments("default").Get(context.Background(), "web", metav1.GetOptions{})
		if err != nil {
			c.t.Fatal(err)
		}
		d.Spec.Template.Spec.Containers[0].Image = image
		d.Generation++
		if _, err = c.AppsV1().Deployments("default").Update(context.Background(), d, metav1.UpdateOptions{}); err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			c.t.Fatal(err)
		}
	}
}

func (c *cluster) uids() (all []string) {
	for _, pod := range c.pods() {
		all = append(all, string(pod.UID))
	}
	slices.Sort(all)
	return all
}
