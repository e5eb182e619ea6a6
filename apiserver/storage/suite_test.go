package storage_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	runtimego "runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"

	kontikistorage "kontiki/apiserver/storage"
	"kontiki/raftstore"
)

// TestMain lets more tests run at a time than there are processors: they wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(max(lanes, runtimego.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// storedPrefix is what the suite's transformer puts before every value.
const storedPrefix = "test!"

// store is what the tests need of a raftstore beyond the Backend.
type store interface {
	kontikistorage.Backend
	WaitRevision(ctx context.Context, revision uint64) (raftstore.View, error)
	Compact(ctx context.Context, revision uint64) error
}

// fixture is one Storage of example pods. read goes through the node under test,
// which may be a follower; compaction and foreign writes, too.
type fixture struct {
	*kontikistorage.Storage
	store       store
	prefix      string
	codec       runtime.Codec
	transformer *swapTransformer
	ctx         context.Context
	// latest has reads at resourceVersion 0 wait for all that was acknowledged.
	latest bool
}

type fixtureOption func(*kontikistorage.Config)

func withCodec(codec runtime.Codec) fixtureOption {
	return func(c *kontikistorage.Config) { c.Codec = codec }
}

func withPrefix(prefix string) fixtureOption {
	return func(c *kontikistorage.Config) { c.Prefix = prefix }
}

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
	return scheme
}

func newFixture(t testing.TB, backend store, options ...fixtureOption) *fixture {
	t.Helper()
	scheme := newScheme()
	transformer := newSwapTransformer(storagetesting.NewPrefixTransformer([]byte(storedPrefix), false))
	cfg := kontikistorage.Config{
		Store:          backend,
		Codec:          apitesting.TestCodec(serializer.NewCodecFactory(scheme), examplev1.SchemeGroupVersion),
		NewFunc:        func() runtime.Object { return &example.Pod{} },
		NewListFunc:    func() runtime.Object { return &example.PodList{} },
		ResourcePrefix: "/pods/",
		GroupResource:  schema.GroupResource{Resource: "pods"},
		Transformer:    transformer,
	}
	for _, option := range options {
		option(&cfg)
	}
	s, err := kontikistorage.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return &fixture{Storage: s, store: backend, prefix: cfg.Prefix, codec: cfg.Codec, transformer: transformer, ctx: context.Background()}
}

// Get implements storage.Interface.
func (f *fixture) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	if err := f.catchUp(ctx, opts.ResourceVersion); err != nil {
		return err
	}
	return f.Storage.Get(ctx, key, opts, out)
}

// GetList implements storage.Interface.
func (f *fixture) GetList(ctx context.Context, key string, opts storage.ListOptions, out runtime.Object) error {
	if err := f.catchUp(ctx, opts.ResourceVersion); err != nil {
		return err
	}
	return f.Storage.GetList(ctx, key, opts, out)
}

// catchUp makes resourceVersion 0 what the suite takes it for, since it is so with etcd:
// the latest. Here it is what the node's own replica has, which may be a moment behind.
func (f *fixture) catchUp(ctx context.Context, resourceVersion string) error {
	if !f.latest || resourceVersion != "0" {
		return nil
	}
	_, err := f.store.Linearize(ctx)
	return err
}

// increaseRV writes a key outside the resource and waits until the node under
// test has it: the suite expects to see it at resourceVersion 0, which here is the
// node's own replica.
func (f *fixture) increaseRV(ctx context.Context, t testing.TB) int64 {
	t.Helper()
	result, err := f.store.Apply(ctx, raftstore.Txn{Ops: []raftstore.Op{{Kind: raftstore.OpPut, Key: "increaseRV", Value: []byte("ok")}}})
	if err != nil {
		t.Fatalf("writing a foreign key: %v", err)
	}
	if _, err := f.store.WaitRevision(ctx, result.Revision); err != nil {
		t.Fatalf("waiting for revision %d: %v", result.Revision, err)
	}
	return int64(result.Revision)
}

func (f *fixture) increase(ctx context.Context, t *testing.T) int64 { return f.increaseRV(ctx, t) }

// compact also raises the revision, as etcd's compaction does by keeping its own
// progress in a key; the suite relies on it.
func (f *fixture) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	revision, err := f.Versioner().ParseResourceVersion(resourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	// A replica compacts only what it has reached.
	if _, err := f.store.WaitRevision(ctx, revision); err != nil {
		t.Fatalf("waiting for revision %d: %v", revision, err)
	}
	if err := f.store.Compact(ctx, revision); err != nil {
		t.Fatalf("compacting to %d: %v", revision, err)
	}
	f.increaseRV(ctx, t)
	deadline := time.After(10 * time.Second)
	for f.store.Compacted() < revision {
		select {
		case <-deadline:
			t.Fatalf("waited for the compaction to %d, is at %d", revision, f.store.Compacted())
		case <-time.After(time.Millisecond):
		}
	}
}

// checkStored holds what must be true of a stored value.
func (f *fixture) checkStored(ctx context.Context, t *testing.T, key string) {
	t.Helper()
	view, err := f.store.Linearize(ctx)
	if err != nil {
		t.Fatal(err)
	}
	kv, ok := view.Get(f.prefix + key)
	if !ok {
		t.Fatalf("no value at %s", key)
	}
	obj, err := runtime.Decode(f.codec, []byte(strings.TrimPrefix(string(kv.Value), storedPrefix)))
	if err != nil {
		t.Fatalf("decoding the value at %s: %v\n%s", key, err, kv.Value)
	}
	if pod := obj.(*example.Pod); pod.ResourceVersion != "" || pod.SelfLink != "" {
		t.Errorf("the value at %s holds resourceVersion %q and selfLink %q", key, pod.ResourceVersion, pod.SelfLink)
	}
}

// checkReads counts decryptions: a page must not read beyond its last item.
func (f *fixture) checkReads(t *testing.T, _, processed uint64) {
	t.Helper()
	if reads := f.transformer.load().(*storagetesting.PrefixTransformer).GetReadsAndReset(); reads != processed {
		t.Errorf("%d values were read, expected %d", reads, processed)
	}
}

// UpdatePrefixTransformer implements storagetesting.InterfaceWithPrefixTransformer.
func (f *fixture) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	original := f.transformer.load()
	changed := *original.(*storagetesting.PrefixTransformer)
	f.transformer.store(modify(&changed))
	return func() { f.transformer.store(original) }
}

// UpdateTransformer implements storagetesting.InterfaceWithTransformerOverride.
// The suite tells errors of corrupt values from others by wrapping them beneath
// the storage; here all errors of a value mark it, except that of a reader that
// gave up, which stands for the others.
func (f *fixture) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	original := f.transformer.load()
	f.transformer.store(abortUnlessCorrupt{modify(original)})
	return func() { f.transformer.store(original) }
}

var errCorrupt = errors.New("this value is corrupt")

type abortUnlessCorrupt struct{ value.Transformer }

func (a abortUnlessCorrupt) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	out, stale, err := a.Transformer.TransformFromStorage(ctx, data, dataCtx)
	if err != nil && !errors.Is(err, errCorrupt) {
		err = fmt.Errorf("%w (%w)", err, context.Canceled)
	}
	return out, stale, err
}

var (
	_ storagetesting.InterfaceWithPrefixTransformer   = (*fixture)(nil)
	_ storagetesting.InterfaceWithTransformerOverride = (*fixture)(nil)
	_ storage.Interface                               = (*fixture)(nil)
)

// swapTransformer lets a test change the transformer under a running Storage.
type swapTransformer struct {
	current atomic.Pointer[value.Transformer]
}

func newSwapTransformer(t value.Transformer) *swapTransformer {
	s := &swapTransformer{}
	s.store(t)
	return s
}

func (s *swapTransformer) load() value.Transformer   { return *s.current.Load() }
func (s *swapTransformer) store(t value.Transformer) { s.current.Store(&t) }

func (s *swapTransformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	return s.load().TransformFromStorage(ctx, data, dataCtx)
}

func (s *swapTransformer) TransformToStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, error) {
	return s.load().TransformToStorage(ctx, data, dataCtx)
}

// failing makes a transformer or codec fail on demand.
type failing struct{ on atomic.Bool }

func (f *failing) set(on bool) { f.on.Store(on) }

func (f *failing) err() error {
	if f.on.Load() {
		return errors.New("synthetic error")
	}
	return nil
}

type failingCodec struct {
	runtime.Codec
	failing
}

func (c *failingCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if err := c.err(); err != nil {
		return nil, nil, err
	}
	return c.Codec.Decode(data, defaults, into)
}

type failingTransformer struct {
	value.Transformer
	failing
}

func (f *failingTransformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	if err := f.err(); err != nil {
		return nil, false, err
	}
	return f.Transformer.TransformFromStorage(ctx, data, dataCtx)
}
