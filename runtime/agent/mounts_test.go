package agent_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/mount"
	"kontiki/runtime/shim"
)

// tree is a directory of the host that is a mount which is told to others, with a directory for each name.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // with all that is mounted below
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func hostPath(dir string) corev1.Volume {
	return corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}
}

// TestReadOnlyAllTheWayDown: what is mounted below a read-only volume is writable still, unless
// recursiveReadOnly is asked for; the status says which it is.
func TestReadOnlyAllTheWayDown(t *testing.T) {
	l := newLab(t)
	dir := tree(t, "sub")
	if err := unix.Mount("tmpfs", filepath.Join(dir, "sub"), "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	disabled, possible, enabled := corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyIfPossible, corev1.RecursiveReadOnlyEnabled
	for name, c := range map[string]struct {
		asked *corev1.RecursiveReadOnlyMode
		path  string
		works bool
		told  corev1.RecursiveReadOnlyMode
	}{
		"nothing-asked": {nil, "/host/sub/x", true, disabled},
		"at-the-top":    {nil, "/host/x", false, disabled},
		"disabled":      {&disabled, "/host/sub/x", true, disabled},
		"if-possible":   {&possible, "/host/sub/x", false, enabled},
		"enabled":       {&enabled, "/host/sub/x", false, enabled},
	} {
		l.pod(name, func(p *corev1.Pod) {
			with(hostPath(dir))(p)
			m := &p.Spec.Containers[0].VolumeMounts[0]
			m.ReadOnly, m.RecursiveReadOnly = true, c.asked
		}, "write", c.path, "y")
		p := l.wait(name, "to end", func(p *corev1.Pod) bool {
			return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		})
		if got := l.logs(name + "/c"); (p.Status.Phase == corev1.PodSucceeded) != c.works || !c.works && !strings.Contains(got, "read-only file system") {
			t.Errorf("%s: writing %s: %s, it says %q", name, c.path, p.Status.Phase, got)
		}
		if m := p.Status.ContainerStatuses[0].VolumeMounts; len(m) != 1 || m[0].RecursiveReadOnly == nil || *m[0].RecursiveReadOnly != c.told {
			t.Errorf("%s: the status tells of %+v", name, m)
		}
		l.delete(name, 1)
	}
	l.clean()
}

// TestMountPropagation: of mounts that are made later, the container sees the host's and the host the
// container's, as is asked for.
func TestMountPropagation(t *testing.T) {
	l := newLab(t)
	cases := []struct {
		name    string
		asked   *corev1.MountPropagationMode
		in, out bool
	}{
		{"nothing-asked", nil, false, false},
		{"none", ptr(corev1.MountPropagationNone), false, false},
		{"from-the-host", ptr(corev1.MountPropagationHostToContainer), true, false},
		{"both-ways", ptr(corev1.MountPropagationBidirectional), true, true},
	}
	dir := tree(t, "late")
	for _, c := range cases {
		if err := os.Mkdir(filepath.Join(dir, c.name), 0o755); err != nil {
			t.Fatal(err)
		}
		l.pod(c.name, func(p *corev1.Pod) {
			with(hostPath(dir))(p)
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr(true)}
			p.Spec.Containers[0].VolumeMounts[0].MountPropagation = c.asked
		}, "run")
	}
	for _, c := range cases {
		l.wait(c.name, "to be ready", ready)
	}
	late := filepath.Join(dir, "late")
	if err := unix.Mount("tmpfs", late, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(late, "x"), []byte("seen"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		run := func(args ...string) (int, string) {
			t.Helper()
			e, out, err := l.env.Client.ExecSync(l.env.Context(), "uid-"+c.name+".c.0", shim.ExecSpec{Args: append([]string{"/probe"}, args...), Capabilities: []string{"CAP_SYS_ADMIN"}}, 1000)
			if err != nil {
				t.Fatalf("%s: %v: %v", c.name, args, err)
			}
			return e.Code, string(out)
		}
		if code, out := run("file", "/host/late/x"); (code == 0 && out == "seen") != c.in {
			t.Errorf("%s: what the host has mounted: code %d, %q", c.name, code, out)
		}
		if code, out := run("mount", "/host/"+c.name); code != 0 {
			t.Fatalf("%s: mount in the container: %q", c.name, out)
		}
		points, err := mount.Points(dir)
		if err != nil {
			t.Fatal(err)
		}
		if seen := slices.Contains(points, filepath.Join(dir, c.name)); seen != c.out {
			t.Errorf("%s: what the container has mounted is seen on the host: %v", c.name, seen)
		}
	}
	for _, c := range cases {
		l.delete(c.name, 1)
	}
	l.clean()
}
