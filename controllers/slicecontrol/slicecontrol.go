// Package slicecontrol is how a controller keeps EndpointSlices: which are its own,
// what an event of one means to it, and in what order changes are written. What the
// slices should say, each controller's planner decides.
//
// Nothing here holds state. Only controllers import this package.
package slicecontrol

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"kontiki/controllers/loop"
)

// Actions is what to write for one Service.
type Actions struct {
	Create, Update, Remove []*discoveryv1.EndpointSlice
}

// Do creates and updates before it removes, so that no endpoint is ever missing.
// created is told of each slice that was made, as the API answered it. A namespace
// that is being deleted is no error; nor is a slice whose planned name is taken, for its
// event brings the Service back.
func (a Actions) Do(ctx context.Context, client kubernetes.Interface, created func(*discoveryv1.EndpointSlice)) error {
	for _, slice := range a.Create {
		made, err := client.DiscoveryV1().EndpointSlices(slice.Namespace).Create(ctx, slice, metav1.CreateOptions{})
		switch {
		case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return nil
		case apierrors.IsAlreadyExists(err) && slice.Name != "":
		case err != nil:
			return err
		default:
			created(made)
		}
	}
	for _, slice := range a.Update {
		if _, err := client.DiscoveryV1().EndpointSlices(slice.Namespace).Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	for _, slice := range a.Remove {
		err := client.DiscoveryV1().EndpointSlices(slice.Namespace).Delete(ctx, slice.Name, *metav1.NewPreconditionDeleteOptions(string(slice.UID)))
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// Of lists the slices that a manager keeps for a Service.
func Of(slices discoverylisters.EndpointSliceLister, namespace, service, manager string) ([]*discoveryv1.EndpointSlice, error) {
	return slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{
		discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: manager,
	}))
}

// OnSlices queues the Service of each slice of a manager that changes; both Services,
// if somebody gave the slice to another.
func OnSlices(l *loop.Loop, informer cache.SharedIndexInformer, manager string) error {
	return loop.On(l, informer, func(before, after *discoveryv1.EndpointSlice) {
		for _, slice := range []*discoveryv1.EndpointSlice{before, after} {
			if slice != nil && slice.Labels[discoveryv1.LabelManagedBy] == manager {
				l.Add(slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName])
			}
		}
	})
}
