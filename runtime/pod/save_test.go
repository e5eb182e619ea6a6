package pod

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/image"
	"kontiki/runtime/shim"
)

// TestTheNewestRecordStandsForAll: records are written in order, one at a time; those that come
// during a write are one write together, and nobody is let go before his record, or a newer one, is there.
func TestTheNewestRecordStandsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, written := make(chan struct{}), []string(nil)
		var jobs sync.WaitGroup
		failed := 0
		s := saver{jobs: &jobs, fail: func(error) { failed++ }, write: func(b []byte) error {
			<-disk
			written = append(written, string(b))
			if string(b) == "three" {
				return errors.New("the disk is full")
			}
			return nil
		}}
		var mu sync.Mutex // protects released
		var released []string
		for _, rec := range []string{"one", "two", "three"} {
			wait := s.save([]byte(rec))
			go func() {
				wait()
				mu.Lock()
				defer mu.Unlock()
				released = append(released, rec)
			}()
		}
		synctest.Wait()
		if len(released) != 0 {
			t.Errorf("%v wait for nothing", released)
		}
		disk <- struct{}{}
		synctest.Wait()
		if !slices.Equal(released, []string{"one"}) {
			t.Errorf("after the first write %v go on", released)
		}
		close(disk)
		s.settle()
		jobs.Wait()
		synctest.Wait()
		if !slices.Equal(written, []string{"one", "three"}) || failed != 1 || len(released) != 3 {
			t.Errorf("written %v, %d failures, %v go on", written, failed, released)
		}
		s.save([]byte("four"))()
		if written[len(written)-1] != "four" {
			t.Errorf("written %v", written)
		}
	})
}

// starter is a shim, images and an API for one container; it notes what it is asked for.
type starter struct {
	Shim
	Images
	API
	Counter
	created, started bool
}

func (s *starter) Resolve(string) (image.Image, error) { return image.Image{}, nil }

func (s *starter) Mount(context.Context, image.Image, string, string) (string, error) {
	return "/nowhere", nil
}

func (s *starter) Create(context.Context, shim.ContainerSpec) (shim.Container, error) {
	s.created = true
	return shim.Container{IO: shim.IO{Stdout: "/nowhere/stdout"}}, nil
}

func (s *starter) Start(context.Context, string) (shim.Container, error) {
	s.started = true
	return shim.Container{}, nil
}

func (s *starter) Event(*corev1.Pod, string, string, string, string) {}

func (s *starter) ContainerStarted(string, string) {}

func (s *starter) ImagePulled(int64, time.Duration, error) {}
func (s *starter) PodWorked(string, time.Duration)         {}

// TestNoProgramBeginsBeforeItsRecordIsThere: a container is made while the disk writes, and started
// when the record says durably that it was tried.
func TestNoProgramBeginsBeforeItsRecordIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &starter{}
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Command: []string{"/c"}}}}}
		pod.UID = "u"
		w := NewWorker(&Deps{
			Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Now: time.Now, Shim: s, Images: s, API: s, Counter: s,
			StartReady: func() bool { return true }, Services: func(string) []*corev1.Service { return nil },
			HostIPs: func() []string { return nil }, Allocatable: func() corev1.ResourceList { return nil },
		}, NewRecord(pod, time.Now()), nil)
		if !w.makeDir(t.Context()) {
			t.Fatal("no directory")
		}
		disk, write := make(chan struct{}), w.saver.write
		w.saver.write = func(b []byte) error {
			<-disk
			return write(b)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.doStart(t.Context(), "c")
		}()
		synctest.Wait()
		if !s.created || s.started {
			t.Errorf("while the disk writes: created %v, started %v", s.created, s.started)
		}
		disk <- struct{}{}
		<-done
		rec, err := LoadRecord(filepath.Join(w.deps.Dir, "u"))
		if err != nil || !rec.Containers["c"].Tried {
			t.Fatalf("on disk: %+v, %v", rec, err)
		}
		close(disk)
		w.saver.settle()
		if c := w.rec.Containers["c"]; !s.started || c.State != Running {
			t.Errorf("started %v, %+v", s.started, c)
		}
		for _, p := range w.pumps {
			p.stop()
		}
		w.jobs.Wait()
	})
}
