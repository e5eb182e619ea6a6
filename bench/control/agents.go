package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// simulated marks the nodes that this program plays.
const simulated = "bench.kontiki/simulated"

const writers = 32

// everywhere lets pods stay on simulated nodes, of which the ring knows nothing.
var everywhere = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}

// inParallel calls do for 0 to n-1.
func inParallel(ctx context.Context, n int, do func(context.Context, int) error) error {
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(writers)
	for i := range n {
		all.Go(func() error { return do(ctx, i) })
	}
	return all.Wait()
}

// nodes makes simulated nodes, in three zones, and removes them again.
func (b *bench) nodes(ctx context.Context, n int) (remove func() error, err error) {
	nodes := b.client.CoreV1().Nodes()
	remove = func() error {
		return nodes.DeleteCollection(context.WithoutCancel(ctx), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: simulated})
	}
	room := corev1.ResourceList{"cpu": resource.MustParse("64"), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("110")}
	err = inParallel(ctx, n, func(ctx context.Context, i int) error {
		name := fmt.Sprintf("sim-%d", i)
		_, err := nodes.Create(ctx, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{simulated: "true", corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("z", i%3)}},
			Status:     corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		}, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	return remove, nil
}

// agents reports every pod of a simulated node as running and ready, until stop.
func (b *bench) agents(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	shared := informers.NewSharedInformerFactoryWithOptions(b.client, 0, informers.WithNamespace("default"))
	var work sync.WaitGroup
	slots := make(chan struct{}, writers)
	ready := []byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`)
	_, err = shared.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(before, after any) {
		was, pod := before.(*corev1.Pod), after.(*corev1.Pod)
		if was.Spec.NodeName != "" || pod.Spec.NodeName == "" {
			return
		}
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			_, err := b.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, ready, metav1.PatchOptions{}, "status")
			if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
				fmt.Printf("# pod %s is not reported ready: %v\n", pod.Name, err)
			}
		})
	}})
	if err != nil {
		cancel()
		return nil, err
	}
	shared.Start(ctx.Done())
	shared.WaitForCacheSync(ctx.Done())
	return func() { cancel(); shared.Shutdown(); work.Wait() }, nil
}
