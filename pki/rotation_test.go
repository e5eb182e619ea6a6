package pki

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func newTestTrust(t *testing.T) *Trust {
	t.Helper()
	trust, err := NewTrust(NewID(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

// TestRotationKeepsASecretInCommon goes through two changes: what a node proves, one
// that is a step behind or ahead accepts.
func TestRotationKeepsASecretInCommon(t *testing.T) {
	r := Rotation{Secret: NewSecret()}
	var said []string
	for range 2 {
		steps := []Rotation{r}
		next, err := r.Begin(NewSecret())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := next.Begin(NewSecret()); err == nil {
			t.Error("a change began during a change")
		}
		for ; next.Step != r.Step; r, next = next, next.Next() {
			steps = append(steps, next)
			said = append(said, fmt.Sprintf("%d %s %d", next.Generation(), next.Phase(), len(next.Secrets())))
		}
		for i, a := range steps {
			for _, b := range steps[max(0, i-1):min(len(steps), i+2)] {
				if !accepts(b.Secrets(), a.Secrets()[0]) {
					t.Errorf("at step %d nobody accepts what is proved at step %d", b.Step, a.Step)
				}
			}
		}
		if last := steps[len(steps)-1]; accepts(last.Secrets(), steps[0].Secret) {
			t.Error("the old secret is accepted at the end")
		}
	}
	if got, want := fmt.Sprint(said), "[1 install 2 1 use 2 1 done 1 2 install 2 2 use 2 2 done 1]"; got != want {
		t.Errorf("the steps were %s, want %s", got, want)
	}
	if _, err := r.Begin(r.Secret); err == nil {
		t.Error("a change to the same secret began")
	}
}

func accepts(all Secrets, s Secret) bool {
	for _, one := range all {
		if one.Equal(s) {
			return true
		}
	}
	return false
}

func TestRotationOnDisk(t *testing.T) {
	dir, trust := t.TempDir(), newTestTrust(t)
	if _, found, err := trust.LoadRotation(dir); found || err != nil {
		t.Fatalf("in an empty directory: %v, %v", found, err)
	}
	first := Rotation{Secret: NewSecret()}
	r, err := first.Begin(NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := trust.WriteRotation(dir, r); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(rotationPath(dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range r.Secrets() {
			if bytes.Contains(data, secret.raw) {
				t.Error("a secret stands in the open in its file")
			}
		}
		got, found, err := trust.LoadRotation(dir)
		if err != nil || !found || got.Step != r.Step || !got.Secret.Equal(r.Secret) || !got.Previous.Equal(r.Previous) {
			t.Errorf("step %d came back as %d, %v, %v", r.Step, got.Step, found, err)
		}
		if _, _, err := newTestTrust(t).LoadRotation(dir); err == nil || !strings.Contains(err.Error(), "key-encryption key") {
			t.Errorf("with another cluster's keys: %v", err)
		}
		r = r.Next().Next()
	}
	// A step is sealed with its secrets: a record cannot be passed off as a later one.
	sealed, err := trust.SealRotation(first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.OpenRotation(bytes.Replace(sealed, []byte(`"step":0`), []byte(`"step":3`), 1)); err == nil {
		t.Error("a record was opened under another step")
	}
}

func FuzzOpenRotation(f *testing.F) {
	trust, err := NewTrust(NewID(), time.Now())
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := trust.SealRotation(Rotation{Step: 3, Secret: NewSecret()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte(`{"version":1,"step":1,"secret":"","previous":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := trust.OpenRotation(data)
		if err != nil {
			return
		}
		if _, err := trust.SealRotation(r); err != nil {
			t.Errorf("what was opened cannot be sealed: %v", err)
		}
	})
}
