// Package encryption encrypts values at rest: it is the value.Transformer that
// apiserver/storage puts on resources such as Secrets. It owns the format of an
// encrypted value and nothing else; where keys come from is its caller's.
//
// A Transformer is safe for use by any number of goroutines.
//
// Only apiserver/storage's users (apiserver, node) import it.
package encryption

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apiserver/pkg/storage/value"
)

const (
	// KeySize is the length of a data key in bytes.
	KeySize = 32

	// header begins every encrypted value; the key's id and a colon follow, then
	// salt and ciphertext.
	header = "kontiki:enc:aesgcm:v1:"

	saltSize  = 32
	nonceSize = 12
	// derivation separates these keys from others that might be derived from the
	// same data key one day.
	derivation = "kontiki value encryption v1"
)

// ErrPlain is returned for a value that is not encrypted where it must be. An
// object that was stored before its resource was encrypted has to be written
// again before that.
var ErrPlain = errors.New("the stored value is not encrypted, although its resource is")

// ErrDamaged is returned for a value that its key does not open: it was changed,
// or lies under another key of the store than it was written to.
var ErrDamaged = errors.New("the stored value is damaged or was moved: its key does not open it")

// Key is a data key. Its id is public, stored with every value, and must not
// contain a colon.
type Key struct {
	ID     string
	Secret [KeySize]byte
}

// Keys gives data keys; whoever unwraps and rotates them implements it.
type Keys interface {
	// Current is the key that new values are encrypted with.
	Current(ctx context.Context) (Key, error)
	// ByID is a key that values may still be encrypted with.
	ByID(ctx context.Context, id string) (Key, error)
}

// Transformer is the value.Transformer over Keys.
type Transformer struct{ keys Keys }

var _ value.Transformer = (*Transformer)(nil)

// New returns a Transformer over keys.
func New(keys Keys) *Transformer { return &Transformer{keys: keys} }

// TransformToStorage encrypts data with the current key, bound to the place that
// dataCtx names.
//
// Each value has its own AES-256-GCM key and nonce, derived with HKDF from the
// data key and 256 random bits, so that a data key may encrypt any number of
// values (random nonces alone allow 2³² of them, NIST SP 800-38D).
func (t *Transformer) TransformToStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, error) {
	key, err := t.keys.Current(ctx)
	if err != nil {
		return nil, fmt.Errorf("the key to encrypt with: %w", err)
	}
	if key.ID == "" || strings.Contains(key.ID, ":") {
		return nil, fmt.Errorf("a data key cannot have the id %q", key.ID)
	}
	prefix := header + key.ID + ":"
	out := make([]byte, len(prefix)+saltSize, len(prefix)+saltSize+len(data)+16)
	salt := out[copy(out, prefix):]
	if _, err := rand.Read(salt); err != nil {
		return nil, err
	}
	aead, nonce, err := derive(key, salt)
	if err != nil {
		return nil, err
	}
	return aead.Seal(out, nonce, data, additional(prefix, dataCtx)), nil
}

// TransformFromStorage decrypts data. stale tells that another key than the
// current one encrypted it, and that it should be written again.
func (t *Transformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) (out []byte, stale bool, err error) {
	rest, ok := bytes.CutPrefix(data, []byte(header))
	if !ok {
		return nil, false, ErrPlain
	}
	id, sealed, ok := bytes.Cut(rest, []byte(":"))
	if !ok || len(sealed) < saltSize {
		return nil, false, fmt.Errorf("a value of %d bytes is cut short: %w", len(data), ErrDamaged)
	}
	key, err := t.keys.ByID(ctx, string(id))
	if err != nil {
		return nil, false, fmt.Errorf("the key %q that encrypted the value: %w", id, err)
	}
	aead, nonce, err := derive(key, sealed[:saltSize])
	if err != nil {
		return nil, false, err
	}
	prefix := header + string(id) + ":"
	out, err = aead.Open(nil, nonce, sealed[saltSize:], additional(prefix, dataCtx))
	if err != nil {
		return nil, false, fmt.Errorf("with key %q: %w", id, ErrDamaged)
	}
	current, err := t.keys.Current(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("the key to encrypt with: %w", err)
	}
	return out, current.ID != key.ID, nil
}

// KeyID is the id of the data key that a stored value is encrypted with.
func KeyID(stored []byte) (id string, ok bool) {
	rest, ok := bytes.CutPrefix(stored, []byte(header))
	if !ok {
		return "", false
	}
	name, _, ok := bytes.Cut(rest, []byte(":"))
	return string(name), ok
}

// derive makes the key and the nonce of one value.
func derive(key Key, salt []byte) (cipher.AEAD, []byte, error) {
	material, err := hkdf.Key(sha256.New, key.Secret[:], salt, derivation, KeySize+nonceSize)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(material[:KeySize])
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, material[KeySize:], err
}

// additional is what the ciphertext is bound to: format, key id and place.
func additional(prefix string, dataCtx value.Context) []byte {
	return append([]byte(prefix), dataCtx.AuthenticatedData()...)
}

// KeySet is Keys that do not change; the first is the current one.
type KeySet []Key

var _ Keys = KeySet(nil)

// ErrNoKey is returned for a key id that a KeySet does not hold.
var ErrNoKey = errors.New("this node does not have the data key")

// Current implements Keys.
func (s KeySet) Current(context.Context) (Key, error) {
	if len(s) == 0 {
		return Key{}, ErrNoKey
	}
	return s[0], nil
}

// ByID implements Keys.
func (s KeySet) ByID(_ context.Context, id string) (Key, error) {
	for _, key := range s {
		if key.ID == id {
			return key, nil
		}
	}
	return Key{}, fmt.Errorf("%q: %w", id, ErrNoKey)
}
