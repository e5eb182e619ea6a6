package workload

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
)

const (
	identities  = 3
	jobIndexes  = 6
	jobsAtOnce  = 2
	podTurnRate = 2 // turns a second that concern pods: each is work for the whole machine
)

// identity has pods come and go that are somebody: those of a StatefulSet, which are
// deleted, scaled and rolled, and those of indexed Jobs. Their containers tell who ran
// when; what the API says of them is not asked.
func identity() Workload {
	w := Workload{
		Name:  "identity",
		About: "of a pod of a StatefulSet, and of an index of a Job, at most one container runs at any time, as the containers themselves tell",
		judge: judgeIdentity,
	}
	w.setUp = func(ctx context.Context, r *Run) error {
		set := w.containersOf(r).statefulSet(w.namespace(), identities)
		return w.make(ctx, r,
			func(ctx context.Context, c *client) error {
				_, err := c.api.AppsV1().StatefulSets(set.Namespace).Create(ctx, set, metav1.CreateOptions{})
				return err
			},
			func(ctx context.Context, c *client) error { return identitiesThere(ctx, c, w.namespace()) })
	}
	w.run = func(ctx context.Context, r *Run) error {
		var jobs atomic.Int64
		return w.withContainers(ctx, r, func(ctx context.Context, c *containers) error {
			err := w.everywhereAt(ctx, r, podTurnRate, func(p *process) func(context.Context) {
				return func(ctx context.Context) { p.identityTurn(ctx, c, &jobs) }
			})
			if err != nil {
				return err
			}
			return w.settle(ctx, r, func(ctx context.Context, k *client) error { return identitiesThere(ctx, k, w.namespace()) })
		})
	}
	return w
}

// identityTurn deletes a pod, changes the set, or makes a Job.
func (p *process) identityTurn(ctx context.Context, c *containers, jobs *atomic.Int64) {
	const set = "identity"
	patch := func(what, body string) {
		p.do(ctx, history.Event{F: what, Key: set, Value: body}, writeTime, func(ctx context.Context, _ *history.Event) error {
			_, err := p.api.AppsV1().StatefulSets(p.namespace).Patch(ctx, set, types.MergePatchType, []byte(body), metav1.PatchOptions{})
			return err
		})
	}
	switch draw := p.chance.IntN(100); {
	case draw < 45:
		p.removePod(ctx, set+"-"+strconv.Itoa(p.chance.IntN(identities)))
	case draw < 55:
		patch("scale", fmt.Sprintf(`{"spec":{"replicas":%d}}`, identities-p.chance.IntN(2)))
	case draw < 60:
		patch("roll", fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"roll":%q}}}}}`, p.value()))
	default:
		p.makeJob(ctx, c, jobs.Add(1))
	}
}

// removePod has a pod end, in as much time as it has to.
func (p *process) removePod(ctx context.Context, name string) {
	p.do(ctx, history.Event{F: "delete-pod", Key: name}, writeTime, func(ctx context.Context, _ *history.Event) error {
		return p.rest.Delete().Namespace(p.namespace).Resource("pods").Name(name).MaxRetries(0).Timeout(writeTime).Do(ctx).Error()
	})
}

// makeJob makes a Job of which nobody runs twice at a time: not if a pod is lost, as it
// is replaced only when it has ended.
func (p *process) makeJob(ctx context.Context, c *containers, n int64) {
	jobs := p.api.BatchV1().Jobs(p.namespace)
	name := "job-" + strconv.FormatInt(n, 10)
	if n > jobsAtOnce { // an earlier one goes, with its pods, whether it has ended or not
		old := "job-" + strconv.FormatInt(n-jobsAtOnce, 10)
		p.do(ctx, history.Event{F: "delete-job", Key: old}, writeTime, func(ctx context.Context, _ *history.Event) error {
			return jobs.Delete(ctx, old, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)})
		})
	}
	pod := named(c.witnessPod(map[string]string{"app": "job"}, "live", "1s"), corev1.EnvVar{Value: name})
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: batchv1.JobSpec{
			Completions: ptr.To[int32](jobIndexes), Parallelism: ptr.To[int32](jobIndexes / 2), BackoffLimit: ptr.To[int32](1000),
			CompletionMode: ptr.To(batchv1.IndexedCompletion), PodReplacementPolicy: ptr.To(batchv1.Failed), Template: pod,
		},
	}
	p.do(ctx, history.Event{F: "create-job", Key: name}, writeTime, func(ctx context.Context, _ *history.Event) error {
		_, err := jobs.Create(ctx, job, metav1.CreateOptions{})
		return err
	})
}

// statefulSet is the one whose pods are the identities.
func (c *containers) statefulSet(namespace string, replicas int32) *appsv1.StatefulSet {
	labels := map[string]string{"app": "identity"}
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "identity", Namespace: namespace},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, PodManagementPolicy: appsv1.ParallelPodManagement, ServiceName: "identity",
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: named(c.witnessPod(labels, "live"), corev1.EnvVar{ValueFrom: &corev1.EnvVarSource{
				FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}),
		},
	}
}

// identitiesThere tells what is missing to a set that has all its pods.
func identitiesThere(ctx context.Context, c *client, namespace string) error {
	sets := c.api.AppsV1().StatefulSets(namespace)
	set, err := sets.Get(ctx, "identity", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if s := set.Status; s.ObservedGeneration != set.Generation || s.ReadyReplicas != *set.Spec.Replicas || s.UpdatedReplicas != *set.Spec.Replicas {
		return fmt.Errorf("the StatefulSet wants %d pods and is %+v", *set.Spec.Replicas, s)
	}
	return nil
}

func judgeIdentity(h judged) []check.Anomaly {
	var lives []check.Life
	for _, l := range sortedLives(h.livesIn()) {
		lives = append(lives, check.Life{Name: l.Key, Who: l.Value + " on " + l.Node, Since: l.Since, Until: l.Until, Place: l.Index})
	}
	if len(lives) == 0 {
		return []check.Anomaly{{Kind: "no witness", Text: "no container told that it ran"}}
	}
	return check.Alone(lives)
}

// make makes an object that a workload needs, and waits until it is as it shall be.
func (w Workload) make(ctx context.Context, r *Run, create, is func(context.Context, *client) error) error {
	if err := w.prepare(ctx, r); err != nil {
		return err
	}
	c, err := r.client(w, r.Nodes[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, setupTime)
	defer cancel()
	err = untilDone(ctx, "objects to be made", func() error {
		if err := create(ctx, c); !apierrors.IsAlreadyExists(err) {
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	return untilDone(ctx, "all pods to be there", func() error { return is(ctx, c) })
}

// withContainers does act while what the workload's containers tell is written down.
func (w Workload) withContainers(ctx context.Context, r *Run, act func(context.Context, *containers) error) error {
	c := w.containersOf(r)
	following, stop := context.WithCancel(ctx)
	defer stop()
	told := make(chan error, 1)
	go func() { told <- c.follow(following) }()
	err := act(ctx, c)
	stop()
	if ferr := <-told; err == nil {
		err = ferr
	}
	return err
}
