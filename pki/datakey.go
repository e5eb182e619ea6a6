package pki

import "fmt"

// NewDataKey makes a data key, and what is stored of it: sealed with the
// key-encryption key.
func (t *Trust) NewDataKey() (DataKey, []byte, error) {
	key := DataKey{ID: NewID(), Key: randomKey()}
	sealed, err := sealBytes(t.kek, key.Key, t.sealed.context("data/"+key.ID))
	return key, sealed, err
}

// OpenDataKey opens what NewDataKey or FoundingKey sealed.
func (t *Trust) OpenDataKey(id string, sealed []byte) (DataKey, error) {
	key, err := openBytes(t.kek, sealed, t.sealed.context("data/"+id))
	if err != nil {
		return DataKey{}, fmt.Errorf("open the data key %s with the key-encryption key: %w", id, err)
	}
	return DataKey{ID: id, Key: key}, nil
}

// FoundingKey is the id of the data key that the cluster was founded with, and the
// key as it is stored. The id is empty once the key was dropped.
func (t *Trust) FoundingKey() (id string, sealed []byte) { return t.sealed.DataKeyID, t.sealed.DataKey }

// WithoutFoundingKey is the trust without that key: others encrypt everything now.
func (t *Trust) WithoutFoundingKey() *Trust {
	out := *t
	out.DataKey, out.sealed.DataKeyID, out.sealed.DataKey = DataKey{}, "", nil
	return &out
}
