package pod

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"kontiki/runtime/mount"
)

func TestBeneathMakesWhatIsMissingAndFollowsNoLinkOut(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, os.ModeSetgid|0o775); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "in"), 0o755), os.Symlink("in", filepath.Join(dir, "link")), os.Symlink("/etc", filepath.Join(dir, "out")),
		os.Symlink("nowhere", filepath.Join(dir, "dangling")), os.Symlink("../..", filepath.Join(dir, "in", "up")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := syscall.Open(dir, syscall.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(root)
	for path, good := range map[string]bool{
		"in": true, "link": true, "link/made": true, "a/b/c": true, "out": false, "out/x": false, "dangling": false, "dangling/x": false, "in/up": false, "in/up/x": false,
	} {
		fd, err := beneath(root, path)
		if (err == nil) != good {
			t.Errorf("%s: %v", path, err)
		}
		if err == nil {
			syscall.Close(fd)
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, "in", "made")); err != nil || fi.Mode() != os.ModeDir|os.ModeSetgid|0o775 {
		t.Errorf("a directory that was missing: %v, %v", fi, err)
	}
}

func TestTheGroupGetsTheVolume(t *testing.T) {
	gid := int64(os.Getgid())
	pod := func(policy corev1.PodFSGroupChangePolicy) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{FSGroup: &gid, FSGroupChangePolicy: &policy}}}
	}
	dir := t.TempDir()
	file, sub, link := filepath.Join(dir, "sub", "file"), filepath.Join(dir, "sub"), filepath.Join(dir, "link")
	modes := func(d, s, f os.FileMode) {
		t.Helper()
		for path, want := range map[string]os.FileMode{dir: d, sub: s, file: f} {
			if fi, err := os.Stat(path); err != nil || fi.Mode()&chmodable != want {
				t.Errorf("%s: %v, want %v (%v)", path, fi.Mode(), want, err)
			}
		}
	}
	for _, err := range []error{os.Chmod(dir, 0o700), os.Mkdir(sub, 0o700), os.WriteFile(file, nil, 0o600), os.Symlink("/etc/passwd", link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := give(dir, pod(corev1.FSGroupChangeOnRootMismatch), true); err != nil {
		t.Fatal(err)
	}
	modes(os.ModeSetgid|0o750, os.ModeSetgid|0o750, 0o640)
	if err := give(dir, pod(corev1.FSGroupChangeAlways), false); err != nil {
		t.Fatal(err)
	}
	modes(os.ModeSetgid|0o770, os.ModeSetgid|0o770, 0o660)
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := give(dir, pod(corev1.FSGroupChangeOnRootMismatch), false); err != nil {
		t.Fatal(err)
	}
	modes(os.ModeSetgid|0o770, os.ModeSetgid|0o770, 0o600) // the root is as it should be: nothing was looked at
}

// TestTheGroupGetsAnEmptyDirOnce: what containers do to it later is not undone, by
// the next look at the volumes or by the next agent.
func TestTheGroupGetsAnEmptyDirOnce(t *testing.T) {
	gid := int64(os.Getgid())
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		SecurityContext: &corev1.PodSecurityContext{FSGroup: &gid},
		Volumes:         []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		Containers:      []corev1.Container{{Name: "c"}},
	}}
	w := NewWorker(&Deps{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}, NewRecord(pod, time.Unix(0, 0)), nil)
	dir := filepath.Join(w.dir, volumesDir, "v")
	setup := func(want os.FileMode) {
		t.Helper()
		if err := w.setupEmptyDir(&pod.Spec.Volumes[0], dir); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(dir); err != nil || fi.Mode()&chmodable != want {
			t.Errorf("%v (%v), want %v", fi.Mode(), err, want)
		}
	}
	setup(os.ModeSetgid | 0o777)
	if err := os.Chmod(dir, 0o700); err != nil { // a container's wish
		t.Fatal(err)
	}
	setup(0o700)
	next := func() {
		t.Helper()
		w.commit()
		rec, err := LoadRecord(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		w = NewWorker(w.deps, rec, nil)
		setup(0o700)
	}
	next()
	// A record of an agent that did not write this down yet: what was tried had been given its volumes.
	w.rec.Given, w.rec.Containers["c"].Tried = nil, true
	next()
}

// TestNoLinkIsGiven: a link in a volume leads its giver nowhere, nor does one in its place.
func TestNoLinkIsGiven(t *testing.T) {
	gid, dir, out := int64(os.Getgid()), t.TempDir(), filepath.Join(t.TempDir(), "out")
	for _, err := range []error{os.Mkdir(out, 0o700), os.WriteFile(filepath.Join(out, "file"), nil, 0o600), os.Symlink(out, filepath.Join(dir, "link")), os.Symlink(filepath.Join(out, "file"), filepath.Join(dir, "other"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := give(dir, &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{FSGroup: &gid}}}, false); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{out: os.ModeDir | 0o700, filepath.Join(out, "file"): 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode() != want {
			t.Errorf("%s: %v (%v)", path, fi.Mode(), err)
		}
	}
}

// TestSecretsAreInMemory: whatever moment an agent was killed at, the next one makes volumes of what may be secret
// in memory, once; only what an older agent filled on the disk stays there.
func TestSecretsAreInMemory(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	held := objects{"secret/s": {"key": "one"}, "m": {"key": "one"}}
	token := []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "key"}}}
	labels := []corev1.DownwardAPIVolumeFile{{Path: "key", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}
	volumes := []corev1.Volume{
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}},
		{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: token}}},
		{Name: "labels", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: labels}}},
		{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "m"}}}},
	}
	newWorker := func(t *testing.T) *Worker {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Volumes: volumes, Containers: []corev1.Container{{Name: "c"}}}}
		w := NewWorker(&Deps{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Allocatable: func() corev1.ResourceList {
			return corev1.ResourceList{"memory": resource.MustParse("8Mi")}
		}}, NewRecord(pod, time.Unix(0, 0)), nil)
		t.Cleanup(func() { mount.DetachBelow(w.dir) })
		return w
	}
	sources := func(w *Worker) *sources { return &sources{ctx: t.Context(), pod: w.rec.Pod, objects: held} }
	inMemory := func(w *Worker, volume string) bool {
		t.Helper()
		var st unix.Statfs_t
		if err := unix.Statfs(w.volumePath(&corev1.Volume{Name: volume}), &st); err != nil {
			t.Fatal(err)
		}
		return st.Type == unix.TMPFS_MAGIC && uint64(st.Bsize)*st.Blocks == 8<<20
	}
	points := func(w *Worker) int {
		t.Helper()
		list, err := mount.Points(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	for moment, before := range map[string]func(t *testing.T, w *Worker, dir string){
		"never": func(*testing.T, *Worker, string) {},
		"before the mount": func(t *testing.T, _ *Worker, dir string) {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		},
		"before the files": func(t *testing.T, w *Worker, dir string) {
			if err := errors.Join(os.MkdirAll(dir, 0o755), w.inMemory(dir)); err != nil {
				t.Fatal(err)
			}
		},
		"after all": func(t *testing.T, w *Worker, _ string) {
			if err := w.setupVolumes(sources(w)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run("killed "+moment, func(t *testing.T) {
			w := newWorker(t)
			for _, v := range []string{"secret", "token", "labels"} {
				before(t, w, w.volumePath(&corev1.Volume{Name: v}))
			}
			for range 2 {
				if err := w.setupVolumes(sources(w)); err != nil {
					t.Fatal(err)
				}
			}
			for v, want := range map[string]bool{"secret": true, "token": true, "labels": true, "conf": false} {
				if got := inMemory(w, v); got != want {
					t.Errorf("volume %s is in memory: %v", v, got)
				}
			}
			if n := points(w); n != 3 {
				t.Errorf("%d mounts", n)
			}
			if b, err := os.ReadFile(filepath.Join(w.volumePath(&volumes[0]), "key")); err != nil || string(b) != "one" {
				t.Errorf("%q, %v", b, err)
			}
			if err := w.removeVolumes(); err != nil {
				t.Fatal(err)
			}
			if n := points(w); n != 0 {
				t.Errorf("%d mounts are left", n)
			}
			if _, err := os.Stat(filepath.Join(w.dir, volumesDir)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("volumes are left: %v", err)
			}
		})
	}
	t.Run("filled by an older agent", func(t *testing.T) {
		w := newWorker(t)
		dir := w.volumePath(&volumes[0])
		if err := errors.Join(os.MkdirAll(dir, 0o755), writeAtomically(dir, payload{"key": {data: []byte("old"), mode: 0o644}}, nil)); err != nil {
			t.Fatal(err)
		}
		seen, err := os.OpenRoot(dir) // by a container
		if err != nil {
			t.Fatal(err)
		}
		defer seen.Close()
		if err := w.setupVolumes(sources(w)); err != nil {
			t.Fatal(err)
		}
		if b, err := seen.ReadFile("key"); err != nil || string(b) != "one" || inMemory(w, "secret") {
			t.Errorf("the container sees %q, %v", b, err)
		}
	})
}

func TestWhoReadsTheToken(t *testing.T) {
	token := corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}}}
	as := func(users ...*int64) []corev1.Container {
		var list []corev1.Container
		for _, u := range users {
			list = append(list, corev1.Container{SecurityContext: &corev1.SecurityContext{RunAsUser: u}})
		}
		return list
	}
	one, two := ptr.To[int64](1), ptr.To[int64](2)
	for name, c := range map[string]struct {
		containers []corev1.Container
		pod        *corev1.PodSecurityContext
		mode       os.FileMode
		owner      *int64
	}{
		"an image decides":     {as(nil), nil, 0o644, nil},
		"all by one user":      {as(one, one), nil, 0o600, one},
		"by two users":         {as(one, two), nil, 0o644, nil},
		"the pod's user":       {as(nil, nil), &corev1.PodSecurityContext{RunAsUser: two}, 0o600, two},
		"the pod's group":      {as(nil), &corev1.PodSecurityContext{FSGroup: two}, 0o600, nil},
		"one has it otherwise": {as(nil, one), &corev1.PodSecurityContext{RunAsUser: two}, 0o644, nil},
	} {
		s := &sources{ctx: t.Context(), objects: objects{}, pod: &corev1.Pod{Spec: corev1.PodSpec{Containers: c.containers, SecurityContext: c.pod}}}
		p, err := s.volume(&token)
		if err != nil {
			t.Fatal(err)
		}
		if f := p["token"]; f.mode != c.mode || ptr.Deref(f.owner, -1) != ptr.Deref(c.owner, -1) {
			t.Errorf("%s: %v, owner %v", name, f.mode, f.owner)
		}
	}
}

func TestMemorySize(t *testing.T) {
	ask := func(q string) *corev1.EmptyDirVolumeSource {
		e := &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}
		if q != "" {
			e.SizeLimit = ptr.To(resource.MustParse(q))
		}
		return e
	}
	limited := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse("64Mi")}}}}}}
	for _, c := range []struct {
		pod  *corev1.Pod
		ask  string
		want int64
	}{{&corev1.Pod{}, "", 128 << 20}, {&corev1.Pod{}, "1Mi", 1 << 20}, {&corev1.Pod{}, "1Gi", 128 << 20}, {limited, "", 64 << 20}, {limited, "1Mi", 1 << 20}, {limited, "100Mi", 64 << 20}} {
		if got := memorySize(c.pod, ask(c.ask), 128<<20); got != c.want {
			t.Errorf("asked for %q: %d, want %d", c.ask, got, c.want)
		}
	}
}

func TestMountsAreTold(t *testing.T) {
	wanted := corev1.RecursiveReadOnlyIfPossible
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", VolumeMounts: []corev1.VolumeMount{
		{Name: "a", MountPath: "/a"}, {Name: "b", MountPath: "/b", ReadOnly: true}, {Name: "c", MountPath: "/c", ReadOnly: true, RecursiveReadOnly: &wanted},
	}}}}}
	got := Status(NewRecord(pod, time.Unix(0, 0)), View{}).ContainerStatuses[0].VolumeMounts
	disabled, enabled := corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled
	want := []corev1.VolumeMountStatus{
		{Name: "a", MountPath: "/a"}, {Name: "b", MountPath: "/b", ReadOnly: true, RecursiveReadOnly: &disabled}, {Name: "c", MountPath: "/c", ReadOnly: true, RecursiveReadOnly: &enabled},
	}
	if !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}
