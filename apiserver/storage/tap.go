package storage

import (
	"context"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// Tap lets a component of this process have the objects of a watch as they were
// decoded, instead of what an encoder and a decoder make of them. Its request passes
// through the whole server like any other; but the stream that answers it stays empty.
//
// A Tap is good for one watch. Nothing that came over the network may carry one.
type Tap struct {
	// Shape makes of a decoded object what the component gets: a copy as deep as what
	// its receivers change. It must not change the object, which others have too. It
	// answers nil for a type that it does not know; such a resource is not tapped.
	Shape func(runtime.Object) runtime.Object

	tapped atomic.Pointer[objectWatch]
}

// Watch is what the component reads, nil if the request did not come to a watch that
// could be tapped: then the stream has the events.
func (t *Tap) Watch() watch.Interface {
	if w := t.tapped.Load(); w != nil {
		return w
	}
	return nil
}

type tapKey struct{}

// WithTap returns a context whose watch is tapped.
func WithTap(ctx context.Context, t *Tap) context.Context { return context.WithValue(ctx, tapKey{}, t) }

// TapFrom returns the tap of ctx, nil for none.
func TapFrom(ctx context.Context) *Tap {
	t, _ := ctx.Value(tapKey{}).(*Tap)
	return t
}

// take gives w's events to the tap of ctx, if there is one and it knows the type; stream
// is what is left for the one who asked for the watch.
func (w *objectWatch) take(ctx context.Context) (stream watch.Interface) {
	tap := TapFrom(ctx)
	if tap == nil || w.s.newFunc == nil || tap.Shape(w.s.newFunc()) == nil || !tap.tapped.CompareAndSwap(nil, w) {
		return w
	}
	w.shape = tap.Shape
	w.emptied = make(chan watch.Event)
	return drained{w}
}

// drained is a watch whose events go elsewhere. It ends when that does, and ends it.
type drained struct{ *objectWatch }

// ResultChan implements watch.Interface.
func (d drained) ResultChan() <-chan watch.Event { return d.emptied }

// bare is obj for a tap.
func (w *objectWatch) bare(obj runtime.Object) runtime.Object {
	if shared, ok := obj.(*sharedObject); ok {
		obj = shared.object
	}
	if shaped := w.shape(obj); shaped != nil {
		return shaped
	}
	return obj // a Status, which nobody shares
}
