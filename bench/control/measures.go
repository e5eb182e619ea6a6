package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"kontiki/bench/report"
)

var apps = map[string]string{"app": "bench"}

func podSpec(scheduler string) corev1.PodSpec {
	return corev1.PodSpec{
		SchedulerName: scheduler, Tolerations: everywhere, NodeSelector: map[string]string{simulated: "true"}, TerminationGracePeriodSeconds: ptr.To[int64](0),
		Containers: []corev1.Container{{Name: "c", Image: "none", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m")}}}},
	}
}

// noPods removes all that a measurement left in the namespace.
func (b *bench) noPods(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	now := metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}
	return wait(ctx, "pods to be gone", func(ctx context.Context) (bool, error) {
		err := b.client.CoreV1().Pods("default").DeleteCollection(ctx, now, metav1.ListOptions{})
		if err != nil && !apierrors.IsTimeout(err) && !apierrors.IsServerTimeout(err) { // of thousands, some are left for the next time
			return false, err
		}
		left, err := b.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil && len(left.Items) == 0, err
	})
}

// deployment measures from the creation of a Deployment until all its pods are told
// available.
func (b *bench) deployment(ctx context.Context, nodes, pods int) (err error) {
	remove, err := b.nodes(ctx, nodes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	stop, err := b.agents(ctx)
	if err != nil {
		return err
	}
	defer stop()
	deployments := b.client.AppsV1().Deployments("default")
	began := time.Now()
	_, err = deployments.Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "bench"}, Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To(int32(pods)), Selector: &metav1.LabelSelector{MatchLabels: apps},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: apps}, Spec: podSpec("")},
	}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	err = wait(ctx, "the Deployment to be available", func(ctx context.Context) (bool, error) {
		d, err := deployments.Get(ctx, "bench", metav1.GetOptions{})
		return err == nil && d.Status.AvailableReplicas == int32(pods), err
	})
	if err != nil {
		return err
	}
	took := time.Since(began)
	return errors.Join(
		b.out.Add(report.Row{What: fmt.Sprintf("Deployment of %d pods on %d simulated nodes: created, bound, ready", pods, nodes), Value: took.Seconds(), Unit: "s", Target: "≤ 15 s"}),
		deployments.Delete(context.WithoutCancel(ctx), "bench", metav1.DeleteOptions{}), b.noPods(ctx))
}

// scheduling makes pods of a schedulerName that nobody answers to, and then a profile
// of that name: so all of them are there when the first is bound.
func (b *bench) scheduling(ctx context.Context, nodes, pods int, spread bool, target string) (err error) {
	remove, err := b.nodes(ctx, nodes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	spec, kind := podSpec("bench"), ""
	if spread {
		kind = ", topology spread"
		spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: apps},
		}}
	}
	err = inParallel(ctx, pods, func(ctx context.Context, i int) error {
		_, err := b.client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p-", i), Labels: apps}, Spec: spec}, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	before, err := b.cpu(ctx)
	if err != nil {
		return err
	}
	profiled := b.profile(ctx, fmt.Sprintf("bound-%d", nodes))
	took, err := b.bound(ctx, pods)
	if err = errors.Join(err, profiled()); err != nil {
		return err
	}
	after, err := b.cpu(ctx)
	if err != nil {
		return err
	}
	used := (after - before).Seconds() * 1000 / float64(pods)
	return errors.Join(
		b.out.Add(report.Row{What: fmt.Sprintf("pods bound, %d waiting, %d simulated nodes%s", pods, nodes, kind), Value: float64(pods) / took.Seconds(), Unit: "/s", Target: target}),
		b.out.Add(report.Row{What: fmt.Sprintf("CPU time of all %d nodes for each of these pods", b.hosts), Value: used, Unit: "ms"}),
		b.client.CoreV1().ConfigMaps("kube-system").Delete(context.WithoutCancel(ctx), "kontiki-scheduler", metav1.DeleteOptions{}), b.noPods(ctx))
}

// bound starts the scheduler's profile and waits until so many pods are bound.
func (b *bench) bound(ctx context.Context, pods int) (time.Duration, error) {
	watching, cancel := context.WithCancel(ctx)
	shared := informers.NewSharedInformerFactoryWithOptions(b.client, 0, informers.WithNamespace("default"))
	defer shared.Shutdown()
	defer cancel()
	var seen atomic.Int64
	done := make(chan struct{})
	if _, err := shared.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(before, after any) {
		if before.(*corev1.Pod).Spec.NodeName == "" && after.(*corev1.Pod).Spec.NodeName != "" && seen.Add(1) == int64(pods) {
			close(done)
		}
	}}); err != nil {
		return 0, err
	}
	shared.Start(watching.Done())
	shared.WaitForCacheSync(watching.Done())
	began := time.Now()
	_, err := b.client.CoreV1().ConfigMaps("kube-system").Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kontiki-scheduler"},
		Data:       map[string]string{"config.yaml": "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles: [{}, {schedulerName: bench}]\n"},
	}, metav1.CreateOptions{})
	if err != nil {
		return 0, err
	}
	select {
	case <-done:
		return time.Since(began), nil
	case <-ctx.Done():
	case <-time.After(10 * time.Minute):
	}
	return 0, fmt.Errorf("%d of %d pods are bound", seen.Load(), pods)
}

// garbage measures from the deletion of an owner until all that it owned is gone.
func (b *bench) garbage(ctx context.Context, dependents int) error {
	maps := b.client.CoreV1().ConfigMaps("default")
	owner, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	err = inParallel(ctx, dependents, func(ctx context.Context, i int) error {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprint("owned-", i), Labels: apps,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.UID}},
		}}, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	began := time.Now()
	if err := maps.Delete(ctx, "owner", metav1.DeleteOptions{}); err != nil {
		return err
	}
	err = wait(ctx, "dependents to be gone", func(ctx context.Context) (bool, error) {
		left, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "app=bench", Limit: 1})
		return err == nil && len(left.Items) == 0, err
	})
	if err != nil {
		return err
	}
	return b.out.Add(report.Row{What: fmt.Sprintf("garbage collection of %d dependents", dependents), Value: time.Since(began).Seconds(), Unit: "s", Target: "≤ 10 s"})
}

var activeLine = regexp.MustCompile(`(?m)^kontiki_controllers_active_after_seconds ([0-9.e+-]+)$`)

// takeover kills the leader and asks the next one when its controllers were active.
func (b *bench) takeover(ctx context.Context) error {
	hosts, err := b.lab.Hosts(ctx)
	if err != nil {
		return err
	}
	old := hosts[0].Leader
	if err := b.lab.Kill(ctx, old); err != nil {
		return err
	}
	var after float64
	err = wait(ctx, "active controllers of another leader", func(ctx context.Context) (bool, error) {
		for _, h := range hosts {
			if h.Name == old {
				continue
			}
			client, err := b.connect(ctx, h.Name)
			if err != nil {
				return false, err
			}
			text, err := client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
			if err != nil && !apierrors.IsServiceUnavailable(err) {
				return false, err
			}
			if m := activeLine.FindSubmatch(text); m != nil {
				after, err = strconv.ParseFloat(string(m[1]), 64)
				return err == nil, err
			}
		}
		return false, nil
	})
	if err != nil {
		return err
	}
	return b.out.Add(report.Row{What: "controllers active after the election of a new leader", Value: 1000 * after, Unit: "ms", Target: "≤ 500 ms"})
}
