package agent

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestWhatIsOverItsLimit(t *testing.T) {
	dir, limit := t.TempDir(), resource.MustParse("1Mi")
	pod := &corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "free", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "bound", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}},
	}}}
	pod.UID = "u"
	fill := func(volume, name string, bytes int) {
		t.Helper()
		at := filepath.Join(dir, "u", "volumes.d", volume)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at, name), make([]byte, bytes), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fill("free", "much", 2<<20)
	fill("bound", "some", 700<<10)
	bound := filepath.Join(dir, "u", "volumes.d", "bound")
	if err := os.Link(filepath.Join(bound, "some"), filepath.Join(bound, "again")); err != nil {
		t.Fatal(err)
	}
	if got := overLimit(t.Context(), dir, pod); got != "" {
		t.Errorf("700 KiB, linked twice, are over 1 MiB: %q", got)
	}
	for phase, want := range map[corev1.PodPhase]bool{"": true, corev1.PodPending: true, corev1.PodRunning: true, corev1.PodSucceeded: false, corev1.PodFailed: false} {
		if limited(pod, phase) != want {
			t.Errorf("a pod that is %q is measured: %v", phase, !want)
		}
	}
	fill("bound", "more", 700<<10)
	if got, want := overLimit(t.Context(), dir, pod), `Usage of EmptyDir volume "bound" exceeds the limit "1Mi". `; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
