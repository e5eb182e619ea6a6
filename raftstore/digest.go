package raftstore

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// digestVersion is that of what is hashed, and how. Replicas of different versions
// cannot be compared.
const digestVersion = 1

// contents is the sum of the hashes (XXH64) of all entries of a state. It does not
// depend on their order, so each change of an entry changes it by a subtraction and
// an addition. Two states that differ have one sum by a chance of 1 in 2^64: enough
// against machines that err, not against somebody who looks for two such states.
//
// It is made of what is written, not of what lies in memory afterwards: that a value
// in memory has changed by itself is seen by scrub, which hashes all anew. A key keeps its
// hash, so that a change of it costs the hash of its new value alone.
type contents uint64

// Seeds keep the kinds of entries apart.
const (
	seedKey     = 1
	seedExpiry  = 2
	seedSession = 3
	seedResult  = 4
	seedState   = 5
)

// hasher hashes fields, with their lengths before those that have none that is fixed.
type hasher struct{ xxhash.Digest }

// numbersAtOnce are hashed in one go, since each call costs as much as several of them.
const numbersAtOnce = 12

func (h *hasher) numbers(numbers ...uint64) {
	var b [8 * numbersAtOnce]byte
	for len(numbers) > 0 {
		n := min(len(numbers), numbersAtOnce)
		for i, v := range numbers[:n] {
			binary.LittleEndian.PutUint64(b[8*i:], v)
		}
		h.Write(b[:8*n])
		numbers = numbers[n:]
	}
}

func (h *hasher) kv(kv *KV) {
	h.numbers(kv.CreateRevision, kv.ModRevision, kv.Version, uint64(kv.ExpiresUnix), uint64(len(kv.Key)), uint64(len(kv.Value)))
	h.WriteString(kv.Key)
	h.Write(kv.Value)
}

func hashKV(kv *KV) contents {
	var h hasher
	h.ResetWithSeed(seedKey)
	h.kv(kv)
	return contents(h.Sum64())
}

func hashExpiry(at []byte, key string) contents {
	var h hasher
	h.ResetWithSeed(seedExpiry)
	h.numbers(uint64(len(at)), uint64(len(key)))
	h.Write(at)
	h.WriteString(key)
	return contents(h.Sum64())
}

func hashSession(s session) contents {
	var h hasher
	h.ResetWithSeed(seedSession)
	h.numbers(s.ID, s.Floor, uint64(len(s.Node)), uint64(len(s.Incarnation)))
	h.WriteString(s.Node)
	h.WriteString(s.Incarnation)
	return contents(h.Sum64())
}

func hashResult(at []byte, r result) contents {
	var h hasher
	h.ResetWithSeed(seedResult)
	h.Write(at)
	succeeded := uint64(0)
	if r.Txn.Succeeded {
		succeeded = 1
	}
	h.numbers(uint64(r.Code), r.Session, succeeded, r.Txn.Revision, uint64(len(r.Txn.Revisions)), uint64(len(r.Txn.Current)))
	h.numbers(r.Txn.Revisions...)
	for _, kv := range r.Txn.Current {
		if kv == nil {
			h.numbers(0)
			continue
		}
		h.numbers(1)
		h.kv(kv)
	}
	return contents(h.Sum64())
}

// digest stands for all that the next log entry's outcome depends on: replicas that
// have applied the same entries have the same.
func (s *state) digest() uint64 {
	var h hasher
	h.ResetWithSeed(seedState)
	h.numbers(digestVersion, uint64(s.contents), s.revision, s.compacted, s.index, s.term, s.lastSession, uint64(s.gate),
		uint64(s.keys.Len()), uint64(s.expiry.Len()), uint64(s.open.Len()), uint64(s.results.Len()))
	return h.Sum64()
}

// scrub hashes the entries of a state as they lie in memory, looks each up by its key,
// and returns an error if that is not what was written. pace is told of the bytes
// that were looked at, and may end it.
func (s *state) scrub(pace func(bytes int) error) error {
	var sum contents
	var err error
	lost := func(kind string, key any) bool {
		err = fmt.Errorf("%s %q is not found where it stands", kind, key)
		return true
	}
	s.keys.Root().Walk(func(k []byte, kv *KV) bool {
		if found, ok := s.keys.Get(k); !ok || found != kv || string(k) != kv.Key {
			return lost("key", k)
		}
		if hashKV(kv) != kv.hash {
			err = fmt.Errorf("key %q is not what was written", k)
			return true
		}
		sum += kv.hash
		err = pace(len(k) + len(kv.Value))
		return err != nil
	})
	if err == nil {
		s.expiry.Root().Walk(func(k []byte, key string) bool {
			if found, ok := s.expiry.Get(k); !ok || found != key {
				return lost("the expiry of key", key)
			}
			sum += hashExpiry(k, key)
			err = pace(len(k))
			return err != nil
		})
	}
	if err == nil {
		s.open.Root().Walk(func(k []byte, v session) bool {
			if found, ok := s.open.Get(k); !ok || found != v || string(k) != string(sessionKey(v.ID)) {
				return lost("session", fmt.Sprint(v.ID))
			}
			sum += hashSession(v)
			return false
		})
	}
	if err == nil {
		s.results.Root().Walk(func(k []byte, v result) bool {
			if _, ok := s.results.Get(k); !ok {
				return lost("result", k)
			}
			sum += hashResult(k, v)
			err = pace(len(k))
			return err != nil
		})
	}
	if err == nil && sum != s.contents {
		err = fmt.Errorf("its contents hash to %016x, what was written to %016x", uint64(sum), uint64(s.contents))
	}
	return err
}
