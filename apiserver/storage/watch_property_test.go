package storage_test

import (
	"fmt"
	"maps"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"pgregory.net/rapid"
)

const lastPod = "zz-last"

// selecting is the predicate of pods with the label l=value, "" for all.
func selecting(value string) storage.SelectionPredicate {
	p := storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything(), GetAttrs: storage.DefaultNamespaceScopedAttr, AllowWatchBookmarks: true}
	if value != "" {
		p.Label = labels.SelectorFromSet(labels.Set{"l": value})
	}
	return p
}

// follower rebuilds a selection from a list and a watch, as an informer does, and
// refuses events that do not fit what it has.
type follower struct {
	w        watch.Interface
	selector string
	has      map[string]string // name → resourceVersion
}

func (f *follower) run(t *rapid.T) {
	for event := range f.w.ResultChan() {
		obj := event.Object
		if shared, ok := obj.(runtime.CacheableObject); ok {
			obj = shared.GetObject()
		}
		m, err := meta.Accessor(obj)
		if err != nil {
			t.Fatalf("%s of %T: %v", event.Type, obj, err)
		}
		_, has := f.has[m.GetName()]
		switch {
		case event.Type == watch.Bookmark:
		case event.Type == watch.Added && !has, event.Type == watch.Modified && has:
			f.has[m.GetName()] = m.GetResourceVersion()
		case event.Type == watch.Deleted && has:
			delete(f.has, m.GetName())
		default:
			t.Fatalf("selector %q: %s of %s at %s, which the client has: %v", f.selector, event.Type, m.GetName(), m.GetResourceVersion(), has)
		}
		if m.GetName() == lastPod {
			return
		}
	}
	t.Fatalf("selector %q: the watch ended before its last event", f.selector)
}

// TestWatchRebuildsList: whatever happens, and from wherever a watch begins, its
// events turn the state at its beginning into the state at its end.
func TestWatchRebuildsList(t *testing.T) {
	backend, run := newStore(t), 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		f := newFixture(t, backend, withPrefix(fmt.Sprintf("/run-%d", run)))
		defer f.Stop()
		var followers []*follower
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name")
			label := rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "label")
			switch rapid.SampledFrom([]string{"put", "put", "delete", "follow"}).Draw(rt, "step") {
			case "put":
				putPod(rt, f, name, label)
			case "delete":
				err := f.Delete(t.Context(), "/pods/ns/"+name, &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
				if err != nil && !storage.IsNotFound(err) {
					rt.Fatal(err)
				}
			case "follow":
				followers = append(followers, follow(rt, t, f, rapid.SampledFrom([]string{"", "x", "y"}).Draw(rt, "selector"), rapid.Bool().Draw(rt, "list first")))
			}
		}
		for _, label := range []string{"x", "y"} { // each selector sees it once
			putPod(rt, f, lastPod, label)
			for _, fl := range followers {
				if fl.selector == label || (fl.selector == "" && label == "x") {
					fl.run(rt)
					_, want := listPods(rt, t, f, fl.selector)
					if !maps.Equal(fl.has, want) {
						rt.Fatalf("selector %q: rebuilt %v, listed %v", fl.selector, fl.has, want)
					}
				}
			}
		}
	})
}

func putPod(rt *rapid.T, f *fixture, name, label string) {
	err := f.GuaranteedUpdate(f.ctx, "/pods/ns/"+name, &example.Pod{}, true, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		pod := obj.(*example.Pod)
		pod.Namespace, pod.Name, pod.Labels = "ns", name, map[string]string{"l": label}
		return pod, nil
	}), nil)
	if err != nil {
		rt.Fatal(err)
	}
}

func listPods(rt *rapid.T, t *testing.T, f *fixture, selector string) (resourceVersion string, pods map[string]string) {
	list := &example.PodList{}
	if err := f.GetList(t.Context(), "/pods/", storage.ListOptions{Recursive: true, Predicate: selecting(selector)}, list); err != nil {
		rt.Fatal(err)
	}
	pods = map[string]string{}
	for _, pod := range list.Items {
		pods[pod.Name] = pod.ResourceVersion
	}
	return list.ResourceVersion, pods
}

// follow begins with a list, or with the initial events of the watch.
func follow(rt *rapid.T, t *testing.T, f *fixture, selector string, listFirst bool) *follower {
	fl := &follower{selector: selector, has: map[string]string{}}
	opts := storage.ListOptions{Recursive: true, Predicate: selecting(selector)}
	if listFirst {
		opts.ResourceVersion, fl.has = listPods(rt, t, f, selector)
	} else {
		yes := true
		opts.SendInitialEvents = &yes
	}
	var err error
	if fl.w, err = f.Watch(t.Context(), "/pods/", opts); err != nil {
		rt.Fatal(err)
	}
	return fl
}
