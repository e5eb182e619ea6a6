package encryption_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"testing"

	"k8s.io/apiserver/pkg/storage/value"

	"kontiki/apiserver/storage/encryption"
)

func keySet(ids ...string) encryption.KeySet {
	var keys encryption.KeySet
	for _, id := range ids {
		keys = append(keys, encryption.Key{ID: id, Secret: sha256.Sum256([]byte(id))})
	}
	return keys
}

func TestRoundTrip(t *testing.T) {
	ctx, transformer := t.Context(), encryption.New(keySet("k1"))
	place := value.DefaultContext("/registry/secrets/default/a")
	for _, plain := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("secret"), 10_000)} {
		sealed, err := transformer.TransformToStorage(ctx, plain, place)
		if err != nil {
			t.Fatal(err)
		}
		if len(plain) > 1 && bytes.Contains(sealed, plain) {
			t.Fatal("the plain value is visible")
		}
		got, stale, err := transformer.TransformFromStorage(ctx, sealed, place)
		if err != nil || stale || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes came back as %d bytes, stale %v: %v", len(plain), len(got), stale, err)
		}
		again, err := transformer.TransformToStorage(ctx, plain, place)
		if err != nil || bytes.Equal(again, sealed) {
			t.Fatalf("the same value encrypts to the same bytes (%v)", err)
		}
	}
}

func TestRotation(t *testing.T) {
	ctx, place := t.Context(), value.DefaultContext("/a")
	sealed, err := encryption.New(keySet("old")).TransformToStorage(ctx, []byte("v"), place)
	if err != nil {
		t.Fatal(err)
	}
	if got, stale, err := encryption.New(keySet("new", "old")).TransformFromStorage(ctx, sealed, place); err != nil || !stale || string(got) != "v" {
		t.Fatalf("under a new key: %q, stale %v, %v", got, stale, err)
	}
	if _, _, err := encryption.New(keySet("new")).TransformFromStorage(ctx, sealed, place); !errors.Is(err, encryption.ErrNoKey) {
		t.Fatalf("without its key: %v", err)
	}
	for _, keys := range []encryption.KeySet{nil, keySet(""), keySet("a:b")} {
		if _, err := encryption.New(keys).TransformToStorage(ctx, []byte("v"), place); err == nil {
			t.Errorf("a value is encrypted with the keys %v", keys)
		}
	}
}

func TestRefusals(t *testing.T) {
	ctx, transformer := t.Context(), encryption.New(keySet("k1", "k2"))
	place := value.DefaultContext("/a")
	sealed, err := transformer.TransformToStorage(ctx, []byte("value"), place)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := transformer.TransformFromStorage(ctx, []byte("plain"), place); !errors.Is(err, encryption.ErrPlain) {
		t.Errorf("a plain value: %v", err)
	}
	if _, _, err := transformer.TransformFromStorage(ctx, sealed, value.DefaultContext("/b")); !errors.Is(err, encryption.ErrDamaged) {
		t.Errorf("a value that was moved: %v", err)
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, _, err := transformer.TransformFromStorage(ctx, changed, place); err == nil {
			t.Errorf("byte %d changed, and it opens", i)
		}
	}
	for i := range sealed {
		if _, _, err := transformer.TransformFromStorage(ctx, sealed[:i], place); err == nil {
			t.Errorf("cut to %d bytes, it opens", i)
		}
	}
}

func FuzzTransformFromStorage(f *testing.F) {
	transformer := encryption.New(keySet("k1"))
	sealed, err := transformer.TransformToStorage(context.Background(), []byte("v"), value.DefaultContext("/a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte("kontiki:enc:aesgcm:v1:k1:"))
	f.Fuzz(func(t *testing.T, data []byte) {
		out, _, err := transformer.TransformFromStorage(t.Context(), data, value.DefaultContext("/a"))
		if err == nil && string(out) != "v" {
			t.Fatalf("a value that was never sealed opens as %q", out)
		}
	})
}
