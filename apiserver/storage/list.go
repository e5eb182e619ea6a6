package storage

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kontiki/raftstore"
)

// GetList implements storage.Interface. A list is one scan of one immutable view:
// a page that a selector leaves half empty needs no second, larger read, and all
// pages of a list are of one revision as long as that is not compacted.
func (s *Storage) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	keyPrefix, err := s.key(key, opts.Recursive)
	if err != nil {
		return err
	}
	itemsPtr, err := meta.GetItemsPtr(listObj)
	if err != nil {
		return err
	}
	items, err := conversion.EnforcePtr(itemsPtr)
	if err != nil || items.Kind() != reflect.Slice {
		return fmt.Errorf("need ptr to slice: %w", err)
	}
	exact, continueKey, err := storage.ValidateListOptions(keyPrefix, s.versioner, opts)
	if err != nil {
		return err
	}
	view, err := s.listView(ctx, keyPrefix, opts, uint64(exact), continueKey)
	if err != nil {
		return err
	}
	page := listPage{s: s, ctx: ctx, pred: opts.Predicate, items: items, newItem: newItemFunc(listObj, items), errs: s.newListErrors()}
	if opts.Recursive {
		page.scan(view, keyPrefix, continueKey)
	} else if kv, ok := view.Get(keyPrefix); ok {
		page.add(kv)
	}
	if page.err != nil {
		return s.listStatus(page.err)
	}
	if err := page.errs.aggregate(); err != nil {
		return s.listStatus(err)
	}
	return s.finishList(listObj, keyPrefix, opts, view.Revision(), &page)
}

// listView returns the view that a list reads: exact is the revision that a
// continue token or an exact match asks for, 0 for none.
func (s *Storage) listView(ctx context.Context, keyPrefix string, opts storage.ListOptions, exact uint64, continueKey string) (raftstore.View, error) {
	if exact == 0 {
		if continueKey != "" { // a token that goes on at the latest revision
			return s.linearize(ctx, keyPrefix)
		}
		return s.viewNotOlder(ctx, opts.ResourceVersion, keyPrefix)
	}
	view, err := s.viewAt(ctx, exact, keyPrefix)
	if errors.Is(err, raftstore.ErrCompacted) {
		if continueKey != "" {
			return view, expiredPage(continueKey, keyPrefix)
		}
		return view, apierrors.NewResourceExpired(listExpired)
	}
	return view, statusOf(err, "read", keyPrefix)
}

// listPage gathers the items of one page.
type listPage struct {
	s       *Storage
	ctx     context.Context
	pred    storage.SelectionPredicate
	items   reflect.Value // the list's slice
	newItem func() runtime.Object
	errs    listErrors

	lastKey string // of the last value looked at
	more    bool   // there are values behind it
	seen    int64  // values looked at
	left    int64  // values behind lastKey, if they were counted
	err     error  // ends the list
}

func (p *listPage) full() bool {
	return p.pred.Limit > 0 && int64(p.items.Len()) >= p.pred.Limit
}

// scan adds the values below prefix, from the key `from` on if that is not empty.
func (p *listPage) scan(view raftstore.View, prefix, from string) {
	start, end := prefix, prefixEnd(prefix)
	if from != "" {
		start = from
	}
	p.reserve(view, prefix)
	view.Range(start, end, 0, func(kv raftstore.KV) bool {
		if p.full() {
			p.more = true
			return false
		}
		p.seen++
		p.lastKey = kv.Key
		p.add(kv)
		return p.err == nil
	})
	if p.more && p.pred.Empty() {
		p.left = countRange(view, prefix, start, end) - p.seen
	}
}

// reserve makes room for the items in one step where their number is known.
func (p *listPage) reserve(view raftstore.View, prefix string) {
	if !p.pred.Empty() {
		return
	}
	n := view.Count(prefix)
	if p.pred.Limit > 0 {
		n = min(n, int(p.pred.Limit))
	}
	if n > p.items.Cap() {
		p.items.Set(reflect.MakeSlice(p.items.Type(), 0, n))
	}
}

// countRange counts the keys of [start, end), which lies below prefix.
func countRange(view raftstore.View, prefix, start, end string) int64 {
	if start == prefix {
		return int64(view.Count(prefix))
	}
	var n int64
	view.Range(start, end, 0, func(raftstore.KV) bool { n++; return true })
	return n
}

// add decodes kv and appends it if the predicate takes it.
func (p *listPage) add(kv raftstore.KV) {
	if p.ctx.Err() != nil {
		p.err = storage.NewTimeoutError(kv.Key, "request did not complete within requested timeout")
		return
	}
	data, _, err := p.s.codec.open(p.ctx, kv)
	if err != nil {
		p.fail(kv.Key, storage.NewInternalError(fmt.Errorf("unable to transform key %q: %w", kv.Key, err)))
		return
	}
	obj, err := p.s.codec.decode(data, p.newItem(), kv.ModRevision)
	if err != nil {
		p.fail(kv.Key, err)
		return
	}
	if matched, err := p.pred.Matches(obj); err == nil && matched {
		p.items.Set(reflect.Append(p.items, reflect.ValueOf(obj).Elem()))
	}
}

func (p *listPage) fail(key string, err error) {
	if p.errs.add(key, err) {
		p.err = p.errs.aggregate()
	}
}

// finishList writes the list's own metadata.
func (s *Storage) finishList(listObj runtime.Object, keyPrefix string, opts storage.ListOptions, revision uint64, page *listPage) error {
	// Upstream counts what was left before the page and subtracts the limit.
	token, remaining, err := storage.PrepareContinueToken(page.lastKey, keyPrefix, int64(revision), page.left+page.pred.Limit, page.more, opts)
	if err != nil {
		return err
	}
	if page.items.IsNil() {
		// Items is never null in an answer.
		page.items.Set(reflect.MakeSlice(page.items.Type(), 0, 0))
	}
	if err := s.versioner.UpdateList(listObj, revision, token, remaining); err != nil {
		return err
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.ShardedListAndWatch) {
		page.pred.SetShardInfoOnList(listObj)
	}
	return nil
}

// newItemFunc makes empty items of the list; untyped ones keep its apiVersion.
func newItemFunc(listObj runtime.Object, items reflect.Value) func() runtime.Object {
	if untyped, ok := listObj.(*unstructured.UnstructuredList); ok {
		if apiVersion := untyped.GetAPIVersion(); apiVersion != "" {
			return func() runtime.Object {
				return &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion}}
			}
		}
	}
	elem := items.Type().Elem()
	return func() runtime.Object { return reflect.New(elem).Interface().(runtime.Object) }
}
