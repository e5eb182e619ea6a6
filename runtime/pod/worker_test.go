package pod

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// events takes what a worker tells.
type events struct {
	API
	tell func(reason string)
}

func (e events) Event(_ *corev1.Pod, _, _, reason, _ string) { e.tell(reason) }

// TestADirectoryIsMadeWhenItCan: a disk that is full for a while does not end a pod's worker.
func TestADirectoryIsMadeWhenItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inTheWay := filepath.Join(t.TempDir(), "pods")
		if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		told := 0
		deps := &Deps{Dir: inTheWay, Now: time.Now, Log: slog.New(slog.DiscardHandler), API: events{tell: func(reason string) {
			if told++; reason != "FailedToMakePodDataDirectories" {
				t.Errorf("an event: %s", reason)
			}
			if told == 3 {
				if err := os.Remove(inTheWay); err != nil {
					t.Error(err)
				}
			}
		}}}
		pod := &corev1.Pod{}
		pod.UID = "u"
		w := NewWorker(deps, NewRecord(pod, time.Now()), nil)
		if !w.makeDir(t.Context()) || told != 3 {
			t.Errorf("told %d times", told)
		}
		if _, err := os.Stat(w.dir); err != nil {
			t.Error(err)
		}
		w.dir = filepath.Join(w.dir, "u")
		if err := os.WriteFile(w.dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if w.makeDir(ctx) {
			t.Error("a file passes for a directory")
		}
	})
}
