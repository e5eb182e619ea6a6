package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/memberlist"
)

const keyLen = 32

// Keys are the keys of the ring. There is one, but while it is being changed: then
// everybody first learns the new key beside the old one, then sends with the new, then
// forgets the old, so that no two nodes are ever without a key in common.
type Keys struct {
	// Step counts how far this node has come in changes of the key. Members tell it to
	// each other (Member.KeyStep); what a step means is not the ring's to know.
	Step uint64
	// Primary encrypts what is sent; it has 32 bytes.
	Primary []byte
	// Also, if not nil, is another key that is accepted.
	Also []byte
}

func (k Keys) validate() error {
	if len(k.Primary) != keyLen || k.Also != nil && len(k.Also) != keyLen {
		return fmt.Errorf("gossip: a key of the ring has %d bytes, want %d", len(k.Primary), keyLen)
	}
	return nil
}

// accepted are all keys, the primary one first.
func (k Keys) accepted() [][]byte {
	if k.Also == nil {
		return [][]byte{k.Primary}
	}
	return [][]byte{k.Primary, k.Also}
}

func (k Keys) accepts(key []byte) bool {
	return slices.ContainsFunc(k.accepted(), func(a []byte) bool { return bytes.Equal(a, key) })
}

// SetKeys changes the ring's keys, of a node that runs, too. A step cannot be taken back.
func (r *Ring) SetKeys(k Keys) error {
	if err := k.validate(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if k.Step < r.keys.Step {
		return fmt.Errorf("gossip: keys of step %d after those of step %d", k.Step, r.keys.Step)
	}
	r.keys = k
	r.dir.self.KeyStep = k.Step
	if r.keyring != nil {
		if err := install(r.keyring, k); err != nil {
			return fmt.Errorf("gossip: change the ring's keys: %w", err)
		}
	}
	poke(r.announce)
	r.changedLocked()
	return nil
}

// takeKeyring makes the keyring of a life.
func (r *Ring) takeKeyring() (*memberlist.Keyring, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ring, err := memberlist.NewKeyring(r.keys.accepted(), r.keys.Primary)
	r.keyring = ring
	return ring, err
}

func (r *Ring) keysNow() Keys {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys
}

// install brings the keyring of a living memberlist to k. The ring never holds more
// than two keys on the way: memberlist takes a key out in place, beneath those who are
// reading, unless it is the last one.
func install(ring *memberlist.Keyring, k Keys) error {
	var errs []error
	held := ring.GetKeys()
	if !k.accepts(held[0]) && len(held) > 1 && k.accepts(held[1]) {
		errs = append(errs, ring.UseKey(held[1]))
	}
	forget := func() {
		for _, key := range ring.GetKeys()[1:] {
			if !k.accepts(key) {
				errs = append(errs, ring.RemoveKey(key))
			}
		}
	}
	forget()
	errs = append(errs, ring.AddKey(k.Primary), ring.UseKey(k.Primary))
	forget()
	if k.Also != nil {
		errs = append(errs, ring.AddKey(k.Also))
	}
	return errors.Join(errs...)
}
