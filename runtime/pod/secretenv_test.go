package pod

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/mount"
	"kontiki/runtime/shim"
)

// TestValuesOfSecretsStayOutOfTheRecord: what processes that join a container get is there for the
// next agent, and not on the disk; what an agent before wrote there is taken back; and it goes with
// the pod's volumes.
func TestValuesOfSecretsStayOutOfTheRecord(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount")
	}
	const value = "correct-horse-battery"
	ref := &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "k"}}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{
		{Name: "secret", Env: []corev1.EnvVar{{Name: "P", ValueFrom: ref}}},
		{Name: "all", EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{}}}},
		{Name: "plain", Env: []corev1.EnvVar{{Name: "Q", Value: "open"}}},
	}}}
	pod.UID = "u"
	dir := t.TempDir()
	w := NewWorker(&Deps{Dir: dir, Log: slog.New(slog.DiscardHandler), Now: time.Now, Allocatable: func() corev1.ResourceList { return nil }}, NewRecord(pod, time.Unix(0, 0)), nil)
	t.Cleanup(func() { _ = mount.DetachBelow(dir) })
	for i := range pod.Spec.Containers {
		spec := &pod.Spec.Containers[i]
		exec := shim.ExecSpec{Env: []string{"P=" + value}, Cwd: "/work"}
		if spec.Name == "plain" {
			exec.Env = []string{"Q=open"}
		}
		if err := w.setExec(spec, w.rec.Containers[spec.Name], exec); err != nil {
			t.Fatal(err)
		}
	}
	onDisk := func(when string, want bool) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(w.dir, recordName))
		if err != nil || strings.Contains(string(b), value) != want || !strings.Contains(string(b), "Q=open") {
			t.Errorf("%s: %s, %v", when, b, err)
		}
	}
	next := func() {
		t.Helper()
		rec, err := LoadRecord(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		w = NewWorker(w.deps, rec, nil)
		w.adopt(t.Context(), nil)
		for name, want := range map[string]string{"secret": "P=" + value, "all": "P=" + value, "plain": "Q=open"} {
			if got := rec.Containers[name].Exec; !slices.Equal(got.Env, []string{want}) || got.Cwd != "/work" {
				t.Errorf("%s is joined as %+v", name, got)
			}
		}
	}
	w.commit()
	onDisk("written", false)
	next()
	for _, c := range w.rec.Containers {
		c.EnvInMemory = false
	}
	w.commit()
	onDisk("as earlier agents wrote it", true)
	next()
	onDisk("adopted", false)
	next()
	if err := w.removeVolumes(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, volumesDir)); !os.IsNotExist(err) {
		t.Errorf("its volumes are there: %v", err)
	}
}
