package storage

import (
	"bytes"
	"io"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kontiki/raftstore"
)

const (
	// sharedEventsMax and sharedBytesMax bound what a resource keeps of the events
	// that its watches share: enough that watches which keep up find each other's
	// work. One that lags further behind decodes for itself again.
	sharedEventsMax = 128
	sharedBytesMax  = 1 << 20 // of stored values
)

// sharedEvents are the last events of a resource with what was decoded of them.
type sharedEvents struct {
	mu     sync.Mutex
	events map[uint64]*sharedEvent // by revision
	order  []*sharedEvent          // oldest first
	bytes  int
}

// sharedEvent is the objects of one event, decoded when first asked for.
type sharedEvent struct {
	revision          uint64
	bytes             int
	mu                sync.Mutex
	current, previous *sharedObject
}

// of returns the shared part of event.
func (s *sharedEvents) of(event raftstore.Event) *sharedEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, ok := s.events[event.Revision()]; ok {
		return found
	}
	e := &sharedEvent{revision: event.Revision(), bytes: len(event.KV.Value)}
	if event.Prev != nil {
		e.bytes += len(event.Prev.Value)
	}
	if s.events == nil {
		s.events = map[uint64]*sharedEvent{}
	}
	s.events[e.revision] = e
	s.order = append(s.order, e)
	s.bytes += e.bytes
	for len(s.order) > sharedEventsMax || (s.bytes > sharedBytesMax && len(s.order) > 1) {
		oldest := s.order[0]
		s.order[0] = nil
		s.order = s.order[1:]
		s.bytes -= oldest.bytes
		delete(s.events, oldest.revision)
	}
	return e
}

// clear forgets all events, for want of watches to share them.
func (s *sharedEvents) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events, s.order, s.bytes = nil, nil, 0
}

// object returns *slot, which decode fills once. A failure is not kept: it may be
// that of a watch whose request ended.
func (e *sharedEvent) object(slot **sharedObject, decode func() (runtime.Object, error)) (runtime.Object, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if *slot == nil {
		obj, err := decode()
		if err != nil {
			return nil, err
		}
		*slot = &sharedObject{object: obj, encoded: map[runtime.Identifier]*encoding{}}
	}
	return *slot, nil
}

// sharedObject is an object that several watches send, with what encoders made
// of it. The object never changes: who wants to, gets a copy.
type sharedObject struct {
	object  runtime.Object
	mu      sync.Mutex
	encoded map[runtime.Identifier]*encoding
}

type encoding struct {
	once sync.Once
	data []byte
	err  error
}

var (
	_ runtime.CacheableObject   = (*sharedObject)(nil)
	_ metav1.ObjectMetaAccessor = (*sharedObject)(nil)
)

// CacheEncode implements runtime.CacheableObject: each encoder runs once. It gets
// a copy, since encoders write into what they encode.
func (o *sharedObject) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	o.mu.Lock()
	e, ok := o.encoded[id]
	if !ok {
		e = &encoding{}
		o.encoded[id] = e
	}
	o.mu.Unlock()
	e.once.Do(func() {
		var buffer bytes.Buffer
		e.err = encode(o.GetObject(), &buffer)
		e.data = buffer.Bytes()
	})
	if e.err != nil {
		return e.err
	}
	if splice, ok := w.(runtime.Splice); ok {
		splice.Splice(e.data)
		return nil
	}
	_, err := w.Write(e.data)
	return err
}

// GetObject implements runtime.CacheableObject: the caller owns what it gets.
func (o *sharedObject) GetObject() runtime.Object { return o.object.DeepCopyObject() }

// DeepCopyObject implements runtime.Object.
func (o *sharedObject) DeepCopyObject() runtime.Object { return o.GetObject() }

// GetObjectKind implements runtime.Object; setting it changes a copy.
func (o *sharedObject) GetObjectKind() schema.ObjectKind {
	kind := &metav1.TypeMeta{}
	kind.SetGroupVersionKind(o.object.GetObjectKind().GroupVersionKind())
	return kind
}

// GetObjectMeta implements metav1.ObjectMetaAccessor; it belongs to a copy.
func (o *sharedObject) GetObjectMeta() metav1.Object {
	switch obj := o.GetObject().(type) {
	case metav1.Object:
		return obj
	case metav1.ObjectMetaAccessor:
		return obj.GetObjectMeta()
	}
	return nil
}
