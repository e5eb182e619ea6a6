package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	"kontiki/raftstore"
)

// defaultQuorumTimeout bounds how long a request waits for a quorum: several
// elections on a slow machine, and not the minute an API request may last.
const defaultQuorumTimeout = 10 * time.Second

// Config says what one Storage holds and how.
type Config struct {
	Store Backend

	// Codec writes the stored version and reads into the one in memory.
	Codec runtime.Codec
	// NewFunc makes an empty object, NewListFunc an empty list of them.
	NewFunc     func() runtime.Object
	NewListFunc func() runtime.Object

	// Prefix of all keys ("/registry"); ResourcePrefix ("/pods") begins every key
	// that is passed to the methods of storage.Interface.
	Prefix         string
	ResourcePrefix string
	GroupResource  schema.GroupResource

	// Transformer encrypts values; nil stores them plain.
	Transformer value.Transformer

	// QuorumTimeout bounds the wait for a quorum within the request's own
	// deadline; 10 s when 0.
	QuorumTimeout time.Duration

	// Logger is told of values that cannot be read; slog.Default() when nil.
	Logger *slog.Logger
}

// Storage is the storage.Interface of one resource.
type Storage struct {
	store          Backend
	codec          objectCodec
	versioner      storage.Versioner
	newFunc        func() runtime.Object
	prefix         string // ends with "/"
	resourcePrefix string
	resource       schema.GroupResource
	quorumTimeout  time.Duration
	logger         *slog.Logger
	newListErrors  func() listErrors
	sizes          atomic.Bool // Stats reports the average size of objects

	// watchMu protects watches, which holds the running ones, and stopped, after
	// which there are no new ones.
	watchMu  sync.Mutex
	watches  map[*objectWatch]struct{}
	stopped  bool
	watching atomic.Int64 // len(watches)
	shared   sharedEvents // when there are several
	running  sync.WaitGroup
}

var _ storage.Interface = (*Storage)(nil)

// New checks cfg and returns the storage of one resource.
func New(cfg Config) (*Storage, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("storage: Config.Store is missing")
	case cfg.Codec == nil:
		return nil, fmt.Errorf("storage: Config.Codec of %s is missing", cfg.GroupResource)
	case !strings.HasPrefix(cfg.ResourcePrefix, "/") || cfg.ResourcePrefix == "/":
		return nil, fmt.Errorf("storage: Config.ResourcePrefix of %s is %q, but must be a path that begins with /", cfg.GroupResource, cfg.ResourcePrefix)
	}
	if cfg.Transformer == nil {
		// It refuses what another provider encrypted instead of handing it out.
		cfg.Transformer = identity.NewEncryptCheckTransformer()
	}
	if cfg.QuorumTimeout == 0 {
		cfg.QuorumTimeout = defaultQuorumTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	versioner := storage.APIObjectVersioner{}
	s := &Storage{
		store:          cfg.Store,
		versioner:      versioner,
		newFunc:        cfg.NewFunc,
		prefix:         strings.TrimSuffix(path.Join("/", cfg.Prefix), "/") + "/",
		resourcePrefix: cfg.ResourcePrefix,
		resource:       cfg.GroupResource,
		quorumTimeout:  cfg.QuorumTimeout,
		logger:         cfg.Logger.With("resource", cfg.GroupResource.String()),
		newListErrors:  newFirstError,
		watches:        map[*objectWatch]struct{}{},
		codec: objectCodec{
			codec:       cfg.Codec,
			transformer: cfg.Transformer,
			versioner:   versioner,
		},
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion) {
		s.codec.reportCorrupt = true
		s.newListErrors = newCorruptObjects
	}
	return s, nil
}

// Stop ends the watches and waits for them. It can be called more than once,
// as registries do that share a Storage among subresources.
func (s *Storage) Stop() {
	s.watchMu.Lock()
	s.stopped = true
	for w := range s.watches {
		w.Stop()
	}
	s.watchMu.Unlock()
	s.running.Wait()
}

// Versioner implements storage.Interface.
func (s *Storage) Versioner() storage.Versioner { return s.versioner }

// key is where the object that the API calls key lies in the store.
func (s *Storage) key(key string, recursive bool) (string, error) {
	prepared, err := storage.PrepareKey(s.resourcePrefix, key, recursive)
	if err != nil {
		return "", err
	}
	return s.prefix + strings.TrimPrefix(prepared, "/"), nil
}

// apply proposes txn, guarded by the term that ctx may carry.
func (s *Storage) apply(ctx context.Context, txn raftstore.Txn, key string) (raftstore.TxnResult, error) {
	txn.Term = TermFrom(ctx)
	quorum, cancel := s.awaitQuorum(ctx)
	defer cancel()
	result, err := s.store.Apply(quorum, txn)
	return result, s.quorumStatus(ctx, err, "write", key)
}

// awaitQuorum bounds a wait for a quorum. Of the time that a client gave its
// request a part is kept for the answer: at its very end the connection would be
// cut instead, and the client would not hear why.
func (s *Storage) awaitQuorum(ctx context.Context) (context.Context, context.CancelFunc) {
	wait := s.quorumTimeout
	if end, ok := ctx.Deadline(); ok {
		left := time.Until(end)
		wait = min(wait, left-left/8)
	}
	return context.WithTimeout(ctx, wait)
}

// quorumStatus is statusOf for calls under the quorum's own deadline: its end means
// that there is no quorum, and a client that went away means nothing.
func (s *Storage) quorumStatus(ctx context.Context, err error, op, key string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && !errors.Is(err, raftstore.ErrOutcomeUnknown):
		err = errors.Join(raftstore.ErrNoQuorum, err)
	}
	return statusOf(err, op, key)
}

// Get implements storage.Interface.
func (s *Storage) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	key, err := s.key(key, false)
	if err != nil {
		return err
	}
	view, err := s.viewNotOlder(ctx, opts.ResourceVersion, key)
	if err != nil {
		return err
	}
	kv, ok := view.Get(key)
	if !ok {
		if opts.IgnoreNotFound {
			return runtime.SetZeroValue(out)
		}
		return storage.NewKeyNotFoundError(key, 0)
	}
	data, _, err := s.codec.open(ctx, kv)
	if err != nil {
		return s.corrupt(key, storage.NewInternalError(err))
	}
	if err := s.codec.decodeInto(data, out, kv.ModRevision); err != nil {
		return s.corrupt(key, err)
	}
	return nil
}

// Create implements storage.Interface.
func (s *Storage) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	key, err := s.key(key, false)
	if err != nil {
		return err
	}
	if revision, err := s.versioner.ObjectResourceVersion(obj); err == nil && revision != 0 {
		return storage.ErrResourceVersionSetOnCreate
	}
	if err := s.versioner.PrepareObjectForStorage(obj); err != nil {
		return fmt.Errorf("PrepareObjectForStorage failed: %w", err)
	}
	data, err := s.codec.encode(obj)
	if err != nil {
		return err
	}
	sealed, err := s.codec.seal(ctx, key, data)
	if err != nil {
		return storage.NewInternalError(err)
	}
	result, err := s.put(ctx, key, 0, sealed, ttl)
	if err != nil {
		return err
	}
	if !result.Succeeded {
		return storage.NewKeyExistsError(key, 0)
	}
	if out == nil {
		return nil
	}
	return s.codec.decodeInto(data, out, result.Revisions[0])
}

// put writes value at key if the key's mod revision is expected (0: no key).
// ttl is in seconds, 0 for ever.
func (s *Storage) put(ctx context.Context, key string, expected uint64, value []byte, ttl uint64) (raftstore.TxnResult, error) {
	return s.apply(ctx, raftstore.Txn{
		Compares: []raftstore.Compare{{Key: key, ModRevision: expected}},
		Ops:      []raftstore.Op{{Kind: raftstore.OpPut, Key: key, Value: value, TTL: time.Duration(ttl) * time.Second}},
	}, key)
}

// GetCurrentResourceVersion implements storage.Interface.
func (s *Storage) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	view, err := s.linearize(ctx, string(s.resource.Resource))
	if err != nil {
		return 0, err
	}
	return view.Revision(), nil
}

// CompactRevision implements storage.Interface.
func (s *Storage) CompactRevision() int64 { return int64(s.store.Compacted()) }

// ReadinessCheck implements storage.Interface. There is no cache to fill: the
// replica was restored before the store was opened.
func (s *Storage) ReadinessCheck() error { return nil }

// EnableResourceSizeEstimation implements storage.Interface. The keys that the
// caller could name are not needed: sizes are exact, taken from the replica.
func (s *Storage) EnableResourceSizeEstimation(keys storage.KeysFunc) error {
	if keys == nil {
		return errors.New("KeysFunc cannot be nil")
	}
	if !s.sizes.CompareAndSwap(false, true) {
		return errors.New("resource size estimation is already enabled")
	}
	return nil
}

// Stats implements storage.Interface.
func (s *Storage) Stats(context.Context) (storage.Stats, error) {
	prefix, err := s.key(s.resourcePrefix, true)
	if err != nil {
		return storage.Stats{}, err
	}
	view := s.store.View()
	if !s.sizes.Load() {
		return storage.Stats{ObjectCount: int64(view.Count(prefix))}, nil
	}
	var stats storage.Stats
	var bytes int64
	view.Range(prefix, prefixEnd(prefix), 0, func(kv raftstore.KV) bool {
		stats.ObjectCount++
		bytes += int64(len(kv.Value))
		return true
	})
	if stats.ObjectCount > 0 {
		stats.EstimatedAverageObjectSizeBytes = bytes / stats.ObjectCount
	}
	return stats, nil
}

// prefixEnd is the least key after all that begin with prefix. Prefixes end with
// "/" here, so the last byte can always be raised.
func prefixEnd(prefix string) string {
	last := len(prefix) - 1
	return prefix[:last] + string(prefix[last]+1)
}
