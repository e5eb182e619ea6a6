package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/storage/value"

	"kontiki/apiserver/storage/encryption"
	"kontiki/pki"
	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// secretsStore is a cluster's store with Secrets in it, and a clock.
type secretsStore struct {
	t     *testing.T
	store *raftstore.Store
	trust *pki.Trust
	now   time.Time
}

func newSecretsStore(t *testing.T, count int) *secretsStore {
	t.Helper()
	trust, err := pki.NewTrust(pki.NewID(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s := &secretsStore{t: t, store: raftstoretest.New(t), trust: trust, now: time.Now()}
	n := &node{store: s.store, charter: charter{trust: trust}}
	// The first Secret comes before the leader has recorded anything.
	s.write(newDataKeys(trust, s.store), 0)
	if err := n.seedDataKeys(t.Context(), s.term()); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < count; i++ {
		s.write(newDataKeys(trust, s.store), i)
	}
	return s
}

func (s *secretsStore) term() uint64 {
	s.t.Helper()
	term, err := s.store.Barrier(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return term
}

func secretPlace(i int) string { return fmt.Sprintf("/registry/secrets/default/s%d", i) }

// seal is what a node that knows keys would write.
func (s *secretsStore) seal(keys *dataKeys, i int) []byte {
	s.t.Helper()
	sealed, err := encryption.New(keys).TransformToStorage(s.t.Context(), fmt.Appendf(nil, "secret %d", i), value.DefaultContext(secretPlace(i)))
	if err != nil {
		s.t.Fatal(err)
	}
	return sealed
}

func (s *secretsStore) put(i int, sealed []byte) error {
	_, err := keyGuard{s.store}.Apply(s.t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Kind: raftstore.OpPut, Key: secretPlace(i), Value: sealed}}})
	return err
}

func (s *secretsStore) write(keys *dataKeys, i int) {
	s.t.Helper()
	if err := s.put(i, s.seal(keys, i)); err != nil {
		s.t.Fatal(err)
	}
}

// eventsKept is how long events with old values are there.
const eventsKept = 5 * time.Minute

// leader is one that has just been elected: it knows what the store says.
func (s *secretsStore) leader() *rekeyer {
	return &rekeyer{store: s.store, keys: newDataKeys(s.trust, s.store), term: s.term(), grace: time.Minute, keep: eventsKept, now: func() time.Time { return s.now }, log: slog.New(slog.DiscardHandler)}
}

func (s *secretsStore) step(r *rekeyer) int {
	s.t.Helper()
	left, err := r.step(s.t.Context(), s.store.View())
	if err != nil {
		s.t.Fatal(err)
	}
	return left
}

// readable wants every Secret to be there, and returns the keys that encrypt them.
func (s *secretsStore) readable(count int) map[string]int {
	s.t.Helper()
	used := map[string]int{}
	transformer := encryption.New(newDataKeys(s.trust, s.store))
	for i := range count {
		kv, found := s.store.View().Get(secretPlace(i))
		if !found {
			s.t.Fatalf("%s is gone", secretPlace(i))
		}
		plain, _, err := transformer.TransformFromStorage(s.t.Context(), kv.Value, value.DefaultContext(kv.Key))
		if want := fmt.Sprintf("secret %d", i); err != nil || string(plain) != want {
			s.t.Fatalf("%s is %q, want %q: %v", kv.Key, plain, want, err)
		}
		id, _ := encryption.KeyID(kv.Value)
		used[id]++
	}
	return used
}

// TestRotateDataKey changes the key with another leader for every step, and a node
// that sleeps all the while.
func TestRotateDataKey(t *testing.T) {
	const count = 20
	s := newSecretsStore(t, count)
	founding, _ := s.trust.FoundingKey()
	sleeper := s.seal(newDataKeys(s.trust, s.store), 3) // on its way to the store
	id, err := rotateDataKey(t.Context(), s.store, s.trust)
	if err != nil {
		t.Fatal(err)
	}
	if used := s.readable(count); used[founding] != count {
		t.Errorf("keys in use: %v", used)
	}
	// During the grace a slow node still writes with the old key, and that is found.
	r := s.leader()
	if left := s.step(r); left != 1 {
		t.Errorf("%d old keys are left, want 1", left)
	}
	if err := s.put(3, sleeper); err != nil {
		t.Errorf("a write with the old key during the grace: %v", err)
	}
	if used := s.readable(count); used[id] != count-1 || used[founding] != 1 {
		t.Errorf("keys in use: %v", used)
	}
	s.now = s.now.Add(30 * time.Second)
	r = s.leader() // whose grace begins anew
	s.step(r)
	if record, _, err := dataKeyIn(s.store.View(), founding); err != nil || record.Closed {
		t.Errorf("closed before its time: %v %v", record, err)
	}
	s.now = s.now.Add(time.Minute)
	s.step(r)
	if record, found, err := dataKeyIn(s.store.View(), founding); err != nil || !found || !record.Closed {
		t.Errorf("not closed: %v %v", found, err)
	}
	if err := s.put(3, sleeper); !errors.Is(err, errKeyClosed) {
		t.Errorf("a write with a closed key: %v", err)
	}
	// A watch may begin at a revision whose values the old key encrypts.
	if left := s.step(r); left != 1 {
		t.Errorf("%d old keys are left while events need one", left)
	}
	s.now = s.now.Add(eventsKept - time.Second)
	if left := s.step(r); left != 1 {
		t.Errorf("%d old keys are left while events need one", left)
	}
	s.now = s.now.Add(time.Second)
	if left := s.step(r); left != 0 {
		t.Errorf("%d old keys are left", left)
	}
	if _, found, _ := dataKeyIn(s.store.View(), founding); found {
		t.Error("the old key is still there")
	}
	if err := s.put(3, sleeper); !errors.Is(err, errKeyClosed) {
		t.Errorf("a write with a key that is gone: %v", err)
	}
	if used := s.readable(count); used[id] != count {
		t.Errorf("keys in use: %v", used)
	}
	if keys := dataKeysIn(s.store.View()); keys.Current != id || len(keys.Old) != 0 {
		t.Errorf("%+v", keys)
	}
}

// TestRotateDataKeyTwice begins a second change in the middle of the first.
func TestRotateDataKeyTwice(t *testing.T) {
	const count = 5
	s := newSecretsStore(t, count)
	r := s.leader()
	if _, err := rotateDataKey(t.Context(), s.store, s.trust); err != nil {
		t.Fatal(err)
	}
	s.step(r)
	s.now = s.now.Add(2 * time.Minute)
	s.step(r) // closes the first
	last, err := rotateDataKey(t.Context(), s.store, s.trust)
	if err != nil {
		t.Fatal(err)
	}
	s.write(newDataKeys(s.trust, s.store), 1)
	for range 20 {
		if s.step(r) == 0 {
			break
		}
		s.now = s.now.Add(time.Minute)
	}
	if used := s.readable(count); used[last] != count {
		t.Errorf("keys in use: %v, want %s", used, last)
	}
}

// TestConflictsPassTheGuard wants a compare of the caller's to fail as it would without
// the guard, and a replica that was behind not to be refused.
func TestConflictsPassTheGuard(t *testing.T) {
	s := newSecretsStore(t, 1)
	keys := newDataKeys(s.trust, s.store)
	result, err := keyGuard{s.store}.Apply(t.Context(), raftstore.Txn{
		Compares: []raftstore.Compare{{Key: secretPlace(0)}},
		Ops:      []raftstore.Op{{Kind: raftstore.OpPut, Key: secretPlace(0), Value: s.seal(keys, 0)}},
	})
	if err != nil || result.Succeeded || len(result.Current) != 1 || result.Current[0].Key != secretPlace(0) {
		t.Errorf("%+v %v", result, err)
	}
}

// TestTrustForgetsItsFoundingKey is a node's file before and after.
func TestTrustForgetsItsFoundingKey(t *testing.T) {
	dir := t.TempDir()
	s := newSecretsStore(t, 1)
	if err := s.trust.Write(dir); err != nil {
		t.Fatal(err)
	}
	n := &node{store: s.store, charter: charter{trust: s.trust}, cfg: Config{DataDir: dir}, log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.forgetFoundingKey(ctx) }()
	if _, err := rotateDataKey(t.Context(), s.store, s.trust); err != nil {
		t.Fatal(err)
	}
	r := s.leader()
	for s.step(r) != 0 {
		s.now = s.now.Add(time.Minute)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		trust, err := pki.LoadTrust(dir)
		if err != nil {
			t.Fatal(err)
		}
		if id, sealed := trust.FoundingKey(); id == "" && len(sealed) == 0 {
			// A node that starts with this reads all, and lets others in.
			if got := newDataKeys(trust, s.store); got == nil {
				t.Error("no keys")
			} else if key, err := got.Current(t.Context()); err != nil || key.ID != currentKey(s.store.View()) {
				t.Errorf("%v %v", key.ID, err)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for the founding key to leave the node's file")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	kv, _ := s.store.View().Get(trustKey)
	if founding, _ := s.trust.FoundingKey(); bytes.Contains(kv.Value, []byte(founding)) {
		t.Error("the store's record of the trust still holds the key")
	}
}
