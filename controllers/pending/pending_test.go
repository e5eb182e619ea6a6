package pending

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

func TestSettledOnlyWhenTheCacheShowsTheWrites(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	store := cache.NewStore(cache.MetaNamespaceKeyFunc)
	add := func(name, rv string) {
		if err := store.Add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: rv}}); err != nil {
			t.Fatal(err)
		}
	}
	alive := map[types.UID]bool{"x": true}
	living := func(uid types.UID) bool { return alive[uid] }
	w := New()
	settled := func() bool { return w.Settled("k", store, living, now) }
	if !settled() {
		t.Fatal("nothing was written and it is not settled")
	}
	created := func(name, rv string) {
		w.Created("k", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: rv}}, now)
	}
	created("gone again", "10")
	created("a", "9")
	add("a", "9")
	if settled() {
		t.Fatal("settled at 9, one create was 10")
	}
	add("b", "10")
	if !settled() {
		t.Fatal("not settled at 10")
	}
	w.Deleted("k", "x", now)
	if settled() {
		t.Fatal("settled while the deleted pod lives in the cache")
	}
	alive["x"] = false
	if !settled() {
		t.Fatal("not settled though the pod is gone")
	}
	created("shown", "20")
	add("shown", "20")
	add("later", "5") // a cache whose last event was of an older version
	if !settled() {
		t.Fatal("not settled though the cache holds the object")
	}
	w.Updated("k", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "shown", ResourceVersion: "30"}}, now)
	if settled() {
		t.Fatal("settled while the cache holds an earlier version")
	}
	add("shown", "31")
	add("later", "6")
	if !settled() {
		t.Fatal("not settled though the cache holds a later version")
	}
	created("never seen", "99")
	now = now.Add(patience + time.Second)
	if !settled() {
		t.Fatal("a write that is never seen holds its key for ever")
	}
}
