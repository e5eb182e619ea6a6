package tokens

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestUsesWithoutQuorum uses a token again and again while nothing can be written:
// nobody waits, and it is tried once a minute; when it succeeds, once a day.
func TestUsesWithoutQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries int
		var outcome error
		u := newUses(func(ctx context.Context, _, _ string, _ []byte) error {
			tries++
			if outcome != nil {
				<-ctx.Done()
			}
			return outcome
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go u.run(ctx)
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s", UID: "1"}}
		many := func(want int) {
			t.Helper()
			for range 100 {
				start := time.Now()
				u.note(secret, start)
				if time.Since(start) != 0 {
					t.Error("a request has waited")
				}
			}
			synctest.Wait()
			if tries != want {
				t.Errorf("tried %d times, want %d", tries, want)
			}
		}
		outcome = errors.New("no quorum")
		many(1)
		time.Sleep(useWrite + time.Second)
		many(1)
		time.Sleep(useFailed)
		outcome = nil
		many(2)
		time.Sleep(2 * useFailed)
		many(2)
		time.Sleep(24 * time.Hour)
		many(3)
		secret.Labels = map[string]string{lastUsedLabel: time.Now().UTC().AddDate(0, 0, 2).Format(labelDate)}
		time.Sleep(24 * time.Hour)
		many(3)
	})
}

// TestUsesAreBounded is about a cluster with more such Secrets than are remembered.
func TestUsesAreBounded(t *testing.T) {
	u := newUses(nil)
	now := time.Now()
	day := now.UTC().Format(labelDate)
	for i := range mostUses {
		u.seen[types.UID(rune(i))] = seen{day: "2026-01-01"}
	}
	u.note(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{UID: "new"}}, now)
	if len(u.seen) != 1 || u.seen["new"].day != day {
		t.Errorf("%d are remembered", len(u.seen))
	}
}
