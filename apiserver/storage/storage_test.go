package storage_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"

	kontikistorage "kontiki/apiserver/storage"
	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

const podKey = "/pods/ns/a"

func newPod(labels map[string]string) *example.Pod {
	return &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", Labels: labels}}
}

func mustCreate(t *testing.T, s storage.Interface) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	if err := s.Create(t.Context(), podKey, newPod(nil), out, 0); err != nil {
		t.Fatalf("creating %s: %v", podKey, err)
	}
	return out
}

// setLabel updates the pod at podKey and returns how often the change was tried.
func setLabel(ctx context.Context, s storage.Interface, value string) (*example.Pod, int, error) {
	out, tries := &example.Pod{}, 0
	err := s.GuaranteedUpdate(ctx, podKey, out, false, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		tries++
		pod := obj.(*example.Pod)
		pod.Labels = map[string]string{"l": value}
		return pod, nil
	}), nil)
	return out, tries, err
}

func TestWritesAreFenced(t *testing.T) {
	f := newFixture(t, newStore(t))
	created := mustCreate(t, f)
	passed := kontikistorage.WithTerm(t.Context(), 1<<40)
	writes := map[string]error{
		"create": f.Create(passed, "/pods/ns/b", newPod(nil), &example.Pod{}, 0),
		"delete": f.Delete(passed, podKey, &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}),
	}
	_, _, writes["update"] = setLabel(passed, f, "x")
	for name, err := range writes {
		if !kontikistorage.IsFenced(err) {
			t.Errorf("%s under a term that has passed: %v", name, err)
		}
		// Neither client-go nor the patch handler may repeat it.
		if apierrors.IsConflict(err) || apierrors.IsServerTimeout(err) || apierrors.IsServiceUnavailable(err) || code(err) != http.StatusPreconditionFailed {
			t.Errorf("%s: the refusal is not final: %#v", name, err)
		}
	}
	now := kontikistorage.WithTerm(t.Context(), f.store.(*raftstore.Store).Leadership().Term)
	if err := f.Create(now, "/pods/ns/c", newPod(nil), nil, 0); err != nil {
		t.Errorf("create under the present term: %v", err)
	}
	got := &example.Pod{}
	if err := f.Get(passed, podKey, storage.GetOptions{}, got); err != nil || got.ResourceVersion != created.ResourceVersion {
		t.Errorf("after refused writes the object is at %s, expected %s (%v)", got.ResourceVersion, created.ResourceVersion, err)
	}
}

func code(err error) int32 {
	if status, ok := err.(apierrors.APIStatus); ok {
		return status.Status().Code
	}
	return 0
}

// faulty is a store that has lost its quorum, or whose replica stands still.
type faulty struct {
	store
	err    atomic.Pointer[error]
	frozen atomic.Pointer[raftstore.View]
}

func (f *faulty) fail(err error) { f.err.Store(&err) }

func (f *faulty) failure() error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *faulty) freeze() {
	view := f.store.View()
	f.frozen.Store(&view)
}

func (f *faulty) View() raftstore.View {
	if view := f.frozen.Load(); view != nil {
		return *view
	}
	return f.store.View()
}

func (f *faulty) Linearize(ctx context.Context) (raftstore.View, error) {
	if err := f.failure(); err != nil {
		return raftstore.View{}, err
	}
	return f.store.Linearize(ctx)
}

func (f *faulty) Apply(ctx context.Context, txn raftstore.Txn) (raftstore.TxnResult, error) {
	if err := f.failure(); err != nil {
		return raftstore.TxnResult{}, err
	}
	return f.store.Apply(ctx, txn)
}

func (f *faulty) Err() error { return f.failure() }

// A node whose replica is damaged answers nothing from it, not even what is read without a
// quorum, and does not have clients wait.
func TestDamagedReplica(t *testing.T) {
	backend := &faulty{store: newStore(t)}
	f := newFixture(t, backend)
	mustCreate(t, f)
	backend.fail(fmt.Errorf("%w: a bit has flipped", raftstore.ErrDiffers))
	local := storage.ListOptions{ResourceVersion: "0", Recursive: true, Predicate: storage.Everything}
	_, watchErr := f.Watch(t.Context(), "/pods/", local)
	begun := false // with the damaged object: its change would be right for the store once it has refilled
	update := storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) { begun = true; return obj, nil })
	remove := func(context.Context, runtime.Object) error { begun = true; return nil }
	for name, err := range map[string]error{
		"update":     f.GuaranteedUpdate(t.Context(), podKey, &example.Pod{}, false, nil, update, nil),
		"delete":     f.Delete(t.Context(), podKey, &example.Pod{}, nil, remove, nil, storage.DeleteOptions{}),
		"get":        f.Get(t.Context(), podKey, storage.GetOptions{}, &example.Pod{}),
		"get at 0":   f.Get(t.Context(), podKey, storage.GetOptions{ResourceVersion: "0"}, &example.Pod{}),
		"list at 0":  f.GetList(t.Context(), "/pods/", local, &example.PodList{}),
		"create":     f.Create(t.Context(), "/pods/ns/b", newPod(nil), nil, 0),
		"watch at 0": watchErr,
	} {
		if _, repeated := apierrors.SuggestsClientDelay(err); !apierrors.IsServiceUnavailable(err) || repeated {
			t.Errorf("%s of a damaged replica: %v (repeated by client-go: %v)", name, err, repeated)
		}
	}
	if begun {
		t.Error("a write was worked out on a damaged object")
	}
	backend.fail(nil)
	if err := f.Get(t.Context(), podKey, storage.GetOptions{ResourceVersion: "0"}, &example.Pod{}); err != nil {
		t.Errorf("once it is refilled: %v", err)
	}
}

// TestWithoutQuorum: what a cut-off node still answers, and how it refuses the rest.
func TestWithoutQuorum(t *testing.T) {
	backend := &faulty{store: newStore(t)}
	f := newFixture(t, backend)
	created := mustCreate(t, f)
	backend.fail(fmt.Errorf("no leader: %w", raftstore.ErrNoQuorum))
	ctx, all := t.Context(), storage.ListOptions{Recursive: true, Predicate: storage.Everything}

	for _, rv := range []string{"0", created.ResourceVersion} {
		if err := f.Get(ctx, podKey, storage.GetOptions{ResourceVersion: rv}, &example.Pod{}); err != nil {
			t.Errorf("get at resourceVersion %s: %v", rv, err)
		}
		opts, list := all, &example.PodList{}
		opts.ResourceVersion = rv
		if err := f.GetList(ctx, "/pods/", opts, list); err != nil || len(list.Items) != 1 {
			t.Errorf("list at resourceVersion %s: %d items, %v", rv, len(list.Items), err)
		}
	}
	opts := all
	opts.ResourceVersion = "0"
	w, err := f.Watch(ctx, "/pods/", opts)
	if err != nil {
		t.Fatalf("watch from 0: %v", err)
	}
	defer w.Stop()
	if event := next(t, w); event.Type != watch.Added {
		t.Errorf("watch from 0 begins with %v", event)
	}

	_, _, updateErr := setLabel(ctx, f, "x")
	_, watchErr := f.Watch(ctx, "/pods/", all)
	for name, err := range map[string]error{
		"get":    f.Get(ctx, podKey, storage.GetOptions{}, &example.Pod{}),
		"list":   f.GetList(ctx, "/pods/", all, &example.PodList{}),
		"create": f.Create(ctx, "/pods/ns/b", newPod(nil), nil, 0),
		"delete": f.Delete(ctx, podKey, &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}),
		"update": updateErr,
		"watch":  watchErr,
	} {
		if _, repeated := apierrors.SuggestsClientDelay(err); !apierrors.IsServiceUnavailable(err) || repeated {
			t.Errorf("%s without a quorum: %v (repeated by client-go: %v)", name, err, repeated)
		}
	}

	backend.fail(fmt.Errorf("%w: %w", raftstore.ErrNoQuorum, raftstore.ErrOutcomeUnknown))
	err = f.Create(ctx, "/pods/ns/b", newPod(nil), nil, 0)
	if _, repeated := apierrors.SuggestsClientDelay(err); !apierrors.IsTimeout(err) || repeated {
		t.Errorf("a write of unknown outcome: %v (repeated by client-go: %v)", err, repeated)
	}
}

// TestIsolatedNode: a real node that is cut off refuses in time, and goes on when
// it is back.
func TestIsolatedNode(t *testing.T) {
	cluster := raftstoretest.NewCluster(t, 3)
	cut := (cluster.Leader() + 1) % 3
	f := newFixture(t, cluster.Stores[cut], func(c *kontikistorage.Config) { c.QuorumTimeout = 300 * time.Millisecond })
	mustCreate(t, f)
	if err := f.Get(t.Context(), podKey, storage.GetOptions{}, &example.Pod{}); err != nil {
		t.Fatal(err)
	}
	cluster.Isolate(cut)
	// The first may be under way to the leader when the link breaks; no more than
	// that its outcome is unknown may be said of it.
	if err := f.Create(t.Context(), "/pods/ns/b", newPod(nil), nil, 0); !apierrors.IsServiceUnavailable(err) && !apierrors.IsTimeout(err) {
		t.Errorf("create on a node that is cut off: %v", err)
	}
	if err := f.Get(t.Context(), podKey, storage.GetOptions{}, &example.Pod{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("get on a node that is cut off: %v", err)
	}
	if err := f.Get(t.Context(), podKey, storage.GetOptions{ResourceVersion: "0"}, &example.Pod{}); err != nil {
		t.Errorf("get at 0 on a node that is cut off: %v", err)
	}
	// A request with less time than that is answered within its own.
	patient := newFixture(t, cluster.Stores[cut])
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := patient.Get(ctx, podKey, storage.GetOptions{}, &example.Pod{}); !apierrors.IsServiceUnavailable(err) || ctx.Err() != nil {
		t.Errorf("get by a client with little time: %v (its time was over: %v)", err, ctx.Err())
	}
	cluster.Rejoin(cut)
	raftstoretest.Eventually(t, "the node to be back", func() bool {
		return f.Get(t.Context(), podKey, storage.GetOptions{}, &example.Pod{}) == nil
	})
}

// TestReplicaBehind: on a follower that lags, everything that is not asked for
// at resourceVersion 0 behaves as on the leader.
func TestReplicaBehind(t *testing.T) {
	backend := &faulty{store: newStore(t)}
	f := newFixture(t, backend)
	first := mustCreate(t, f)
	backend.freeze()
	second, tries, err := setLabel(t.Context(), f, "2")
	if err != nil || tries != 1 {
		t.Fatalf("an update on what the replica holds: %d tries, %v", tries, err)
	}
	third, tries, err := setLabel(t.Context(), f, "3")
	if err != nil || tries != 2 {
		t.Fatalf("an update on a stale replica: %d tries, %v", tries, err)
	}
	got := &example.Pod{}
	for _, rv := range []string{"", third.ResourceVersion} {
		if err := f.Get(t.Context(), podKey, storage.GetOptions{ResourceVersion: rv}, got); err != nil || got.ResourceVersion != third.ResourceVersion {
			t.Errorf("get at %q shows %s, expected %s (%v)", rv, got.ResourceVersion, third.ResourceVersion, err)
		}
	}
	if err := f.Get(t.Context(), podKey, storage.GetOptions{ResourceVersion: "0"}, got); err != nil || got.ResourceVersion != first.ResourceVersion {
		t.Errorf("get at 0 shows %s, expected the replica's %s (%v)", got.ResourceVersion, first.ResourceVersion, err)
	}
	opts := storage.ListOptions{Recursive: true, Predicate: storage.Everything, ResourceVersion: second.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}
	list := &example.PodList{}
	if err := f.GetList(t.Context(), "/pods/", opts, list); err != nil || len(list.Items) != 1 || list.Items[0].ResourceVersion != second.ResourceVersion {
		t.Errorf("list at exactly %s: %v (%v)", second.ResourceVersion, list.Items, err)
	}
	// A change that changes nothing there is still compared with the current state.
	if out, _, err := setLabel(t.Context(), f, "3"); err != nil || out.ResourceVersion != third.ResourceVersion {
		t.Errorf("an update to what there is: %s, expected %s (%v)", out.ResourceVersion, third.ResourceVersion, err)
	}
	deleted := &example.Pod{}
	if err := f.Delete(t.Context(), podKey, deleted, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil || deleted.Labels["l"] != "3" {
		t.Errorf("the delete returned %v (%v)", deleted.Labels, err)
	}
	if _, _, err := setLabel(t.Context(), f, "4"); !storage.IsNotFound(err) {
		t.Errorf("an update of what the replica still holds: %v", err)
	}
}

// TestUpdateKeepsTTL: an update that says nothing about the time to live leaves it.
func TestUpdateKeepsTTL(t *testing.T) {
	f := newFixture(t, newStore(t))
	if err := f.Create(t.Context(), podKey, newPod(nil), nil, 1000); err != nil {
		t.Fatal(err)
	}
	if _, _, err := setLabel(t.Context(), f, "x"); err != nil {
		t.Fatal(err)
	}
	kv, _ := f.store.View().Get(podKey)
	if left := time.Until(time.Unix(kv.ExpiresUnix, 0)); left < 900*time.Second || left > 1002*time.Second {
		t.Errorf("%v are left of 1000 s (expires at %d)", left, kv.ExpiresUnix)
	}
}

// TestStaleValuesAreRewritten: an update that changes nothing writes again what
// an old key encrypted.
func TestStaleValuesAreRewritten(t *testing.T) {
	f := newFixture(t, newStore(t))
	mustCreate(t, f)
	before, _, err := setLabel(t.Context(), f, "x")
	if err != nil {
		t.Fatal(err)
	}
	f.transformer.store(storagetesting.NewPrefixTransformer([]byte(storedPrefix), true))
	after, _, err := setLabel(t.Context(), f, "x")
	if err != nil || after.ResourceVersion == before.ResourceVersion {
		t.Errorf("a stale value stayed at %s (%v)", after.ResourceVersion, err)
	}
}

func TestStopEndsWatches(t *testing.T) {
	f := newFixture(t, newStore(t))
	w, err := f.Watch(t.Context(), "/pods/", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	f.Stop()
	if event, ok := <-w.ResultChan(); ok {
		t.Errorf("a stopped watch sends %v", event)
	}
	if _, err := f.Watch(t.Context(), "/pods/", storage.ListOptions{Recursive: true, Predicate: storage.Everything}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("a watch after Stop: %v", err)
	}
	f.Stop()
}

func TestRequestWatchProgress(t *testing.T) {
	f := newFixture(t, newStore(t))
	list := &example.PodList{}
	if err := f.GetList(t.Context(), "/pods/", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, list); err != nil {
		t.Fatal(err)
	}
	w, err := f.Watch(t.Context(), "/pods/", storage.ListOptions{
		ResourceVersion: list.ResourceVersion, Recursive: true, Predicate: storage.Everything, ProgressNotify: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := f.RequestWatchProgress(t.Context()); err != nil {
		t.Fatal(err)
	}
	event := next(t, w)
	if pod, ok := event.Object.(*example.Pod); event.Type != watch.Bookmark || !ok || pod.ResourceVersion != list.ResourceVersion {
		t.Errorf("the answer is %v, expected a bookmark at %s", event, list.ResourceVersion)
	}
}

func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case event := <-w.ResultChan():
		return event
	case <-time.After(30 * time.Second):
		t.Fatal("waited for an event of the watch")
		return watch.Event{}
	}
}

// TestWatchesShareObjects: several watches decode and encode an event once, and
// what one does to its object does not reach another.
func TestWatchesShareObjects(t *testing.T) {
	f := newFixture(t, newStore(t))
	created := mustCreate(t, f)
	var watches []watch.Interface
	selecting := storagetesting.CreatePodPredicate(fields.OneTermEqualSelector("metadata.name", "a"), true, nil)
	for _, predicate := range []storage.SelectionPredicate{storage.Everything, storage.Everything, selecting} {
		w, err := f.Watch(t.Context(), "/pods/", storage.ListOptions{Recursive: true, Predicate: predicate, ResourceVersion: created.ResourceVersion})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		watches = append(watches, w)
	}
	updated, _, err := setLabel(t.Context(), f, "x")
	if err != nil {
		t.Fatal(err)
	}
	encodings := 0
	encode := func(obj runtime.Object, w io.Writer) error {
		encodings++
		obj.(*example.Pod).Labels["l"] = "spoiled" // as encoders do, if not to labels
		_, err := io.WriteString(w, "encoded")
		return err
	}
	for i, w := range watches {
		event := next(t, w)
		shared, ok := event.Object.(runtime.CacheableObject)
		if !ok || event.Type != watch.Modified {
			t.Fatalf("watch %d sends %s %T", i, event.Type, event.Object)
		}
		var out bytes.Buffer
		if err := shared.CacheEncode("id", encode, &out); err != nil || out.String() != "encoded" {
			t.Fatalf("watch %d: %q, %v", i, out.String(), err)
		}
		if err := (storage.APIObjectVersioner{}).UpdateObject(event.Object, 1); err != nil {
			t.Error(err)
		}
		got := shared.GetObject().(*example.Pod)
		if got.Labels["l"] != "x" || got.ResourceVersion != updated.ResourceVersion {
			t.Errorf("watch %d shows %v at %s", i, got.Labels, got.ResourceVersion)
		}
	}
	if encodings != 1 {
		t.Errorf("one encoder ran %d times for %d watches", encodings, len(watches))
	}
}
