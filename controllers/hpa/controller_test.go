package hpa

import (
	"log/slog"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// TestForgetsWhatIsGone: an autoscaler that was deleted while a worker had it rivals
// none afterwards.
func TestForgetsWhatIsGone(t *testing.T) {
	client := fake.NewClientset()
	c := New(client, informers.NewSharedInformerFactory(client, 0), nil, Metrics{}, nil, slog.New(slog.DiscardHandler), time.Now)
	const key = "default/gone"
	c.rivals(key, "default", labels.Everything(), nil) // the worker, after the deletion was seen
	c.memories[key] = memory{}
	if err := c.sync(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if len(c.selected) > 0 || len(c.memories) > 0 {
		t.Errorf("remembered: %v, %v", c.selected, c.memories)
	}
}
