package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
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

// undertaking is what a leader is paused in the middle of: something that it does in many steps,
// and that is asked for again and again.
type undertaking struct {
	begin func(c *cluster, round int) // the first makes it, later ones change it
	ended func(c *cluster, round int) bool
}

var undertakings = map[string]undertaking{
	"a Deployment":     {beginDeployment, deploymentRolledOut},
	"a StatefulSet":    {beginStatefulSet, statefulSetRolledOut},
	"a DaemonSet":      {beginDaemonSet, daemonSetRolledOut},
	"a Job":            {beginJob, jobDone},
	"pods to schedule": {beginPods, podsBound},
}

// TestALeaderThatWasPausedInTheMiddleChangesNothing: whatever write the old leader is stopped
// before, the next one ends what was begun and does it once more; when the old one goes on, with the
// plans and caches that it had, nothing is other than before.
func TestALeaderThatWasPausedInTheMiddleChangesNothing(t *testing.T) {
	for name, u := range undertakings {
		for _, writes := range []int{0, 2} {
			t.Run(fmt.Sprint(name, " before write ", writes), func(t *testing.T) { pausedBefore(t, u, writes) })
		}
	}
}

func pausedBefore(t *testing.T, u undertaking, writes int) {
	c := newCluster(t, node("a"), node("b"), node("c"))
	old := c.term()
	c.lead(old)
	round := func(n int) {
		u.begin(c, n)
		c.eventually(fmt.Sprint("round ", n, " to end"), func() bool { return u.ended(c, n) })
	}
	round(1)
	old.stopAfter(writes)
	u.begin(c, 2)
	c.eventually("the old leader to be stopped before a write", func() bool {
		old.mu.Lock()
		defer old.mu.Unlock()
		return old.stopped
	})
	c.lead(c.term())
	c.eventually("the new leader to end round 2", func() bool { return u.ended(c, 2) })
	round(3)
	before := c.state()
	close(old.resume)
	c.eventually("a write of the old leader to be refused", func() bool {
		old.mu.Lock()
		defer old.mu.Unlock()
		return old.refused > 0
	})
	if after := c.state(); !u.ended(c, 3) || !slices.Equal(before, after) {
		t.Errorf("there were %v, are %v", before, after)
	}
}

// state is what there is of pods and Jobs, where each is and how far.
func (c *cluster) state() (all []string) {
	for _, pod := range c.pods() {
		all = append(all, fmt.Sprint(pod.Name, " ", pod.UID, " on ", pod.Spec.NodeName, " ", pod.Status.Phase))
	}
	jobs, err := c.BatchV1().Jobs("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, job := range jobs.Items {
		all = append(all, fmt.Sprint(job.Name, " ", job.UID, " ", job.Status.Succeeded, " ", job.Status.Failed))
	}
	slices.Sort(all)
	return all
}

func image(round int) string { return fmt.Sprint("example/web:", round) }

// templateOf is that of a round, of pods with the label app=web.
func templateOf(round int) corev1.PodTemplateSpec {
	of := template("web")
	of.Spec.Containers[0].Image = image(round)
	return of
}

// run says whether there are just so many pods, all of a round's template.
func (c *cluster) run(n, round int) bool {
	pods := c.pods()
	return len(pods) == n && !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Spec.Containers[0].Image != image(round) })
}

var selectsWeb = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}

// must fails the test, unless the write has to be tried again.
func (c *cluster) must(err error) (again bool) {
	c.t.Helper()
	if err != nil && !apierrors.IsConflict(err) {
		c.t.Fatal(err)
	}
	return err != nil
}

func beginDeployment(c *cluster, round int) {
	deployments, ctx := c.AppsV1().Deployments("default"), context.Background()
	if round > 1 {
		c.update("web", func(d *appsv1.Deployment) { d.Spec.Template = templateOf(round) })
		return
	}
	_, err := deployments.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](3), Selector: selectsWeb, Template: templateOf(round),
			ProgressDeadlineSeconds: ptr.To[int32](600), RevisionHistoryLimit: ptr.To[int32](10),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(1))}},
		},
	}, metav1.CreateOptions{})
	c.must(err)
}

func deploymentRolledOut(c *cluster, round int) bool {
	s := c.deployment("web").Status
	return s.UpdatedReplicas == 3 && s.Replicas == 3 && s.AvailableReplicas == 3 && c.run(3, round)
}

func beginStatefulSet(c *cluster, round int) {
	sets, ctx := c.AppsV1().StatefulSets("default"), context.Background()
	if round == 1 {
		_, err := sets.Create(ctx, &appsv1.StatefulSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Generation: 1},
			Spec:       appsv1.StatefulSetSpec{Replicas: ptr.To[int32](3), ServiceName: "web", Selector: selectsWeb, Template: templateOf(round)},
		}, metav1.CreateOptions{})
		c.must(err)
		return
	}
	for again := true; again; {
		set, err := sets.Get(ctx, "web", metav1.GetOptions{})
		c.must(err)
		set.Spec.Template = templateOf(round)
		set.Generation++
		_, err = sets.Update(ctx, set, metav1.UpdateOptions{})
		again = c.must(err)
	}
}

func statefulSetRolledOut(c *cluster, round int) bool {
	set, err := c.AppsV1().StatefulSets("default").Get(context.Background(), "web", metav1.GetOptions{})
	return err == nil && set.Status.CurrentRevision == set.Status.UpdateRevision && set.Status.ObservedGeneration == set.Generation &&
		set.Status.AvailableReplicas == 3 && set.Status.UpdatedReplicas == 3 && c.run(3, round)
}

func beginDaemonSet(c *cluster, round int) {
	sets, ctx := c.AppsV1().DaemonSets("default"), context.Background()
	if round == 1 {
		_, err := sets.Create(ctx, &appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Generation: 1},
			Spec: appsv1.DaemonSetSpec{
				Selector: selectsWeb, Template: templateOf(round), RevisionHistoryLimit: ptr.To[int32](10),
				UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: ptr.To(intstr.FromInt32(0)), MaxUnavailable: ptr.To(intstr.FromInt32(1))}},
			},
		}, metav1.CreateOptions{})
		c.must(err)
		return
	}
	for again := true; again; {
		set, err := sets.Get(ctx, "web", metav1.GetOptions{})
		c.must(err)
		set.Spec.Template = templateOf(round)
		set.Generation++
		_, err = sets.Update(ctx, set, metav1.UpdateOptions{})
		again = c.must(err)
	}
}

func daemonSetRolledOut(c *cluster, round int) bool {
	set, err := c.AppsV1().DaemonSets("default").Get(context.Background(), "web", metav1.GetOptions{})
	return err == nil && set.Status.ObservedGeneration == set.Generation && set.Status.UpdatedNumberScheduled == 3 && set.Status.NumberAvailable == 3 && c.run(3, round)
}

// beginJob makes a Job of its own for each round.
func beginJob(c *cluster, round int) {
	work := templateOf(round)
	work.Spec.RestartPolicy = corev1.RestartPolicyNever
	name := fmt.Sprint("web-", round)
	work.Labels = map[string]string{"job": name}
	_, err := c.BatchV1().Jobs("default").Create(context.Background(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: batchv1.JobSpec{
			Completions: ptr.To[int32](4), Parallelism: ptr.To[int32](2), BackoffLimit: ptr.To[int32](6), CompletionMode: ptr.To(batchv1.IndexedCompletion),
			Selector: &metav1.LabelSelector{MatchLabels: work.Labels}, Template: work,
		},
	}, metav1.CreateOptions{})
	c.must(err)
}

// jobDone has the pods end that run, and says whether all were counted, once.
func jobDone(c *cluster, round int) bool {
	c.endRunning()
	job, err := c.BatchV1().Jobs("default").Get(context.Background(), fmt.Sprint("web-", round), metav1.GetOptions{})
	return err == nil && job.Status.Succeeded == 4 && job.Status.Failed == 0 && job.Status.CompletionTime != nil && len(c.pods()) == 4*round
}

// beginPods makes three pods that nobody owns.
func beginPods(c *cluster, round int) {
	for i := range 3 {
		_, err := c.CoreV1().Pods("default").Create(context.Background(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("web-%d-%d", round, i)}, Spec: templateOf(round).Spec,
		}, metav1.CreateOptions{})
		c.must(err)
	}
}

func podsBound(c *cluster, round int) bool {
	pods := c.pods()
	return len(pods) == 3*round && !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName == "" })
}
