package agent_test

import (
	"archive/tar"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/image"
)

// smallDisk gives the node's data a file system of its own.
func (l *lab) smallDisk(options string) {
	l.t.Helper()
	if err := os.MkdirAll(l.data, 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", l.data, "tmpfs", 0, options); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := unix.Unmount(l.data, unix.MNT_DETACH); err != nil {
			l.t.Error(err)
		}
	})
}

// TestBombs has a node of a small disk pull images that are larger than it: packed, unpacked, and by the
// number of their files. They are refused before the disk is full, and their pods say so; nothing of them is
// left, and the pod beside them goes on and has room to write.
func TestBombs(t *testing.T) {
	const disk, inodes = 40 << 20, 2000
	reg := startRegistry(t)
	probe := []tar.Header{{Name: "probe", Linkname: "probe"}}
	reg.push("team/zeros:1", probe, []tar.Header{{Name: "zeros", Linkname: "zeros", Size: 2 * disk}})
	reg.push("team/noise:1", probe, []tar.Header{{Name: "noise", Linkname: "noise", Size: disk}})
	var crumbs []tar.Header
	for i := range 2 * inodes {
		crumbs = append(crumbs, tar.Header{Name: fmt.Sprintf("crumbs/%d", i)})
	}
	reg.push("team/crumbs:1", probe, crumbs)
	l := emptyLab(t)
	l.smallDisk(fmt.Sprintf("size=%d,nr_inodes=%d", disk, inodes))
	l.stock()
	l.registries = image.Registries{Configs: map[string]image.RegistryConfig{reg.host: {
		TLS: &image.RegistryTLS{CAFile: reg.caFile}, Auth: &image.RegistryAuth{Username: registryUser, Password: registryPassword}}}}
	l.begin()
	t.Cleanup(func() { l.stop() })

	l.pod("beside", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	}, "run")
	l.wait("beside", "to be ready", ready)
	before := held(t, l.data)
	bombs := map[string]*regexp.Regexp{
		"zeros":  regexp.MustCompile(`unpack layer 1 of .*: layer entry "zeros": no room for the image: the disk has (\d+) bytes left, and (\d+) are kept for others$`),
		"noise":  regexp.MustCompile(`": no room for the image: the disk has (\d+) bytes left, and (\d+) are kept for others$`),
		"crumbs": regexp.MustCompile(`unpack layer 1 of .*: no room for the image: the disk has (\d+) inodes left, and (\d+) are kept for others$`),
	}
	for name, words := range bombs {
		ref := reg.host + "/team/" + name + ":1"
		l.pod(name, func(p *corev1.Pod) { p.Spec.Containers[0].Image = ref }, "run")
		p := l.wait(name, "to be without its image", func(p *corev1.Pod) bool {
			s := p.Status.ContainerStatuses
			return len(s) == 1 && s[0].State.Waiting != nil && (s[0].State.Waiting.Reason == "ErrImagePull" || s[0].State.Waiting.Reason == "ImagePullBackOff")
		})
		found := words.FindStringSubmatch(p.Status.ContainerStatuses[0].State.Waiting.Message)
		if found == nil {
			t.Errorf("%s waits with the message %q", name, p.Status.ContainerStatuses[0].State.Waiting.Message)
			continue
		}
		left, err := strconv.Atoi(found[1])
		kept, err2 := strconv.Atoi(found[2])
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		switch name {
		case "zeros":
			if kept != disk/20 || left < kept-1<<20 { // beside them others write
				t.Errorf("%s was refused with %d bytes left, of which %d are others'", name, left, kept)
			}
		case "crumbs":
			if kept != inodes/20 || left < kept/2 {
				t.Errorf("%s was refused with %d inodes left, of which %d are others'", name, left, kept)
			}
		case "noise": // it says how large it is, so nothing of it was fetched
			if kept != disk/20 || left < disk/2 {
				t.Errorf("%s was refused with %d bytes left, of which %d are others'", name, left, kept)
			}
		}
		l.event(name, "Failed", `Failed to pull image "`+ref+`": `)
		l.event(name, "Failed", "Error: ErrImagePull")
		if now := held(t, l.data); !slices.Equal(now, before) {
			t.Errorf("%s left something: there was %v, there is %v", name, before, now)
		}
	}
	l.pod("writes", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
	}, "fill", "/much", strconv.Itoa(disk/2))
	l.wait("writes", "to have room to write", succeeded)
	p := l.wait("beside", "to be ready", ready)
	if s := p.Status.ContainerStatuses[0]; s.RestartCount != 0 {
		t.Errorf("the pod beside them was restarted %d times", s.RestartCount)
	}
	for name := range bombs {
		l.delete(name, 1)
	}
	l.delete("beside", 1)
	l.delete("writes", 1)
	l.clean()
}
