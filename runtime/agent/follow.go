package agent

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"kontiki/runtime/pod"
)

// followRetry is the pause before a watch that ended is begun again.
const followRetry = time.Second

// object is a ConfigMap or Secret that volumes are made of.
type object struct {
	secret          bool
	namespace, name string
}

// follower watches the objects that the volumes of this node's pods are made of,
// each by its name, so that a node sees no others; and says when one changed.
// One watch serves all pods that use the object. It is safe for concurrent use.
type follower struct {
	client  kubernetes.Interface
	changed func(uids []string) // of pods whose volumes have to be looked at

	mu      sync.Mutex // protects what follows
	watches map[object]*followed
	stopped bool
	running sync.WaitGroup
}

type followed struct {
	pods map[string]bool // by uid
	stop context.CancelFunc
}

func newFollower(client kubernetes.Interface, changed func([]string)) *follower {
	return &follower{client: client, changed: changed, watches: map[object]*followed{}}
}

// set says which pod there is; nil: it is gone from the node.
func (f *follower) set(uid string, p *corev1.Pod) {
	wanted := map[object]bool{}
	if p != nil {
		pod.VolumeObjects(p, func(secret bool, name string) { wanted[object{secret, p.Namespace, name}] = true })
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return
	}
	for o, w := range f.watches {
		if w.pods[uid] && !wanted[o] {
			if delete(w.pods, uid); len(w.pods) == 0 {
				w.stop()
				delete(f.watches, o)
			}
		}
	}
	for o := range wanted {
		w := f.watches[o]
		if w == nil {
			ctx, stop := context.WithCancel(context.Background()) // not the first pod's: until the last is gone, or close
			w = &followed{pods: map[string]bool{}, stop: stop}
			f.watches[o] = w
			f.running.Go(func() { f.follow(ctx, o) })
		}
		w.pods[uid] = true
	}
}

// close ends all watches and waits for that.
func (f *follower) close() {
	f.mu.Lock()
	f.stopped = true
	for _, w := range f.watches {
		w.stop()
	}
	f.mu.Unlock()
	f.running.Wait()
}

// follow watches one object until ctx ends, or until it says that it never changes.
func (f *follower) follow(ctx context.Context, o object) {
	for ctx.Err() == nil {
		if f.watch(ctx, o) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(followRetry):
		}
	}
}

// watch tells of changes until the watch ends; final: there will be none.
func (f *follower) watch(ctx context.Context, o object) (final bool) {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", o.name).String(), ResourceVersion: "0"}
	var w watch.Interface
	var err error
	if o.secret {
		w, err = f.client.CoreV1().Secrets(o.namespace).Watch(ctx, options)
	} else {
		w, err = f.client.CoreV1().ConfigMaps(o.namespace).Watch(ctx, options)
	}
	if err != nil {
		return false
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case e, ok := <-w.ResultChan():
			if !ok || e.Type == watch.Error {
				return false
			}
			if e.Type == watch.Bookmark {
				continue
			}
			f.tell(o)
			if immutable(e.Object) && e.Type != watch.Deleted {
				return true
			}
		}
	}
}

func immutable(obj any) bool {
	switch o := obj.(type) {
	case *corev1.ConfigMap:
		return o.Immutable != nil && *o.Immutable
	case *corev1.Secret:
		return o.Immutable != nil && *o.Immutable
	}
	return false
}

func (f *follower) tell(o object) {
	f.mu.Lock()
	var uids []string
	if w := f.watches[o]; w != nil {
		for uid := range w.pods {
			uids = append(uids, uid)
		}
	}
	f.mu.Unlock()
	f.changed(uids)
}
