package agent_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kontiki/runtime/agent"
	"kontiki/runtime/mount"
	"kontiki/runtime/shim/shimtest"
)

// volume makes a claim that is bound to a volume of local-path on the lab's node.
func (l *lab) volume(claim string) *corev1.PersistentVolume {
	l.t.Helper()
	ctx := l.env.Context()
	name := "pvc-" + claim
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID("uid-" + name), Finalizers: []string{agent.LocalPathFinalizer},
			Labels: map[string]string{corev1.LabelHostname: "n1"}, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": agent.LocalPathProvisioner},
		},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			ClaimRef:                      &corev1.ObjectReference{Namespace: "default", Name: claim, UID: types.UID("uid-" + claim)},
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: filepath.Join(l.data, "volumes", name)}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"n1"}}},
			}}}},
		},
	}
	pv, err := l.client.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	_, err = l.client.CoreV1().PersistentVolumeClaims("default").Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: claim, UID: types.UID("uid-" + claim)},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: name},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}, metav1.CreateOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	return pv
}

// with mounts volumes, by name, at /NAME.
func with(volumes ...corev1.Volume) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Volumes = volumes
		for _, v := range volumes {
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
		}
	}
}

func claim(name string) corev1.Volume {
	return corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
}

func (l *lab) succeeds(name string) {
	l.t.Helper()
	p := l.wait(name, "to end", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	if p.Status.Phase != corev1.PodSucceeded {
		l.t.Errorf("pod %s: %s, it says %q", name, p.Status.Phase, l.logs(name+"/c"))
	}
}

// told waits for an event about a pod.
func (l *lab) told(pod, reason, words string) {
	l.t.Helper()
	shimtest.Eventually(l.t, reason+" of pod "+pod+": "+words, func() bool {
		list, err := l.client.CoreV1().Events("default").List(l.env.Context(), metav1.ListOptions{})
		if err != nil {
			return false
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Name == pod && e.Reason == reason && strings.Contains(e.Message, words) {
				return true
			}
		}
		return false
	})
}

func TestClaimsKeepDataUntilTheyAreReclaimed(t *testing.T) {
	l := newLab(t)
	l.pod("early", with(claim("late")), "write", "/data/x", "kept")
	l.told("early", "FailedMount", `Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: error processing PVC default/late: failed to fetch PVC from API server: persistentvolumeclaims "late" not found`)
	shimtest.Eventually(t, "the node to be registered", func() bool {
		_, err := l.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		return err == nil
	})
	pv := l.volume("late")
	l.succeeds("early")
	l.delete("early", 1)
	user, group := int64(1000), int64(2000)
	l.pod("later", func(p *corev1.Pod) {
		with(claim("late"))(p)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, FSGroup: &group}
		p.Spec.Containers[0].VolumeMounts[0].ReadOnly = true
	}, "stat", "/data", "/data/x")
	l.succeeds("later")
	if got := l.logs("later/c"); !strings.Contains(got, "/data 2777 0 2000\n/data/x 664 0 2000\n") {
		t.Errorf("the pod's group was not given the volume: %q", got)
	}
	l.pod("user", with(claim("late")), "run")
	l.wait("user", "to be ready", ready)

	// Deleted while a pod of this node has it: the directory waits for the pod.
	pv, err := l.client.CoreV1().PersistentVolumes().Get(t.Context(), pv.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pv.Annotations["kontiki.io/directory-made"] == "" {
		t.Error("nothing says that the directory was made")
	}
	now := metav1.Now()
	pv.DeletionTimestamp = &now
	if _, err := l.client.CoreV1().PersistentVolumes().Update(t.Context(), pv, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	dir := pv.Spec.Local.Path
	if b, err := os.ReadFile(filepath.Join(dir, "x")); err != nil || string(b) != "kept" {
		t.Errorf("the volume holds %q (%v)", b, err)
	}
	l.delete("user", 1)
	l.delete("later", 1)
	shimtest.Eventually(t, "the directory to be removed and the volume released", func() bool {
		_, err := os.Stat(dir)
		pv, gerr := l.client.CoreV1().PersistentVolumes().Get(t.Context(), pv.Name, metav1.GetOptions{})
		return errors.Is(err, os.ErrNotExist) && (apierrors.IsNotFound(gerr) || gerr == nil && len(pv.Finalizers) == 0)
	})
	l.clean()
}

func TestALostDirectoryIsNotMadeAnew(t *testing.T) {
	l := newLab(t)
	shimtest.Eventually(t, "the node to be registered", func() bool {
		_, err := l.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		return err == nil
	})
	pv := l.volume("lost")
	l.pod("first", with(claim("lost")), "write", "/data/x", "y")
	l.succeeds("first")
	l.delete("first", 1)
	if err := os.RemoveAll(pv.Spec.Local.Path); err != nil {
		t.Fatal(err)
	}
	l.pod("second", with(claim("lost")), "run")
	l.told("second", "FailedMount", `MountVolume.SetUp failed for volume "pvc-lost" : path "`+pv.Spec.Local.Path+`" does not exist`)
	l.delete("second", 1)
	l.clean()
}

func TestSubPathsStayInTheirVolume(t *testing.T) {
	l := newLab(t)
	l.pod("sub", func(p *corev1.Pod) {
		scratch := corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
		with(scratch)(p)
		p.Spec.InitContainers = []corev1.Container{{Name: "make", Image: "probe:1", Args: []string{"make-link", "/etc", "/scratch/out"}, VolumeMounts: p.Spec.Containers[0].VolumeMounts}}
		c := &p.Spec.Containers[0]
		c.Env = []corev1.EnvVar{{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "scratch", MountPath: "/own", SubPathExpr: "of/$(POD)"})
		escape := *c.DeepCopy()
		escape.Name, escape.Args = "escape", []string{"run"}
		escape.VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/own", SubPath: "out"}}
		unset := *c.DeepCopy()
		unset.Name = "unset"
		unset.VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/own", SubPathExpr: "$(NOBODY)"}}
		p.Spec.Containers = append(p.Spec.Containers, escape, unset)
	}, "write", "/own/x", "y")
	p := l.wait("sub", "to have one container done and two refused", func(p *corev1.Pod) bool {
		if len(p.Status.ContainerStatuses) != 3 {
			return false
		}
		s := p.Status.ContainerStatuses
		return s[0].State.Terminated != nil && s[1].State.Waiting != nil && s[1].State.Waiting.Reason == "CreateContainerConfigError" &&
			s[2].State.Waiting != nil && s[2].State.Waiting.Reason == "CreateContainerConfigError"
	})
	if s := p.Status.ContainerStatuses[0].State.Terminated; s.ExitCode != 0 {
		t.Errorf("the container with its own subPath: %+v", s)
	}
	if m := p.Status.ContainerStatuses[1].State.Waiting.Message; !strings.Contains(m, `failed to prepare subPath for volumeMount "scratch" of container "escape"`) || !strings.Contains(m, "leads out of its volume") {
		t.Errorf("a link out of the volume: %q", m)
	}
	if m := p.Status.ContainerStatuses[2].State.Waiting.Message; m != `missing value for "NOBODY"` {
		t.Errorf("an unset variable: %q", m)
	}
	if b, err := os.ReadFile(filepath.Join(l.data, "pods", "uid-sub", "volumes.d", "scratch", "of", "sub", "x")); err != nil || string(b) != "y" {
		t.Errorf("the subPath holds %q (%v)", b, err)
	}
	l.delete("sub", 1)
	l.clean()
}

func TestVolumesFollowTheirObjects(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	conf := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "conf", Namespace: "default"}, Data: map[string]string{"key": "one"}}
	if _, err := l.client.CoreV1().ConfigMaps("default").Create(ctx, conf, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	strict := int32(0o400)
	// A pod that came first, and is gone before anything changes.
	shared := corev1.Volume{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}}}
	l.pod("first", with(shared), "run")
	l.wait("first", "to be ready", ready)
	l.pod("p", func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "one"}
		with(
			corev1.Volume{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}, DefaultMode: &strict}}},
			corev1.Volume{Name: "meta", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
		)(p)
	}, "run")
	l.wait("p", "to be ready", ready)
	holds := func(volume, file, want string) {
		t.Helper()
		path := filepath.Join(l.data, "pods", "uid-p", "volumes.d", volume, file)
		shimtest.Eventually(t, path+" to hold "+want, func() bool {
			b, err := os.ReadFile(path)
			return err == nil && string(b) == want
		})
	}
	holds("conf", "key", "one")
	holds("meta", "labels", `app="one"`)
	for volume, want := range map[string]bool{"conf": false, "meta": true} {
		dir := filepath.Join(l.data, "pods", "uid-p", "volumes.d", volume)
		if points, err := mount.Points(dir); err != nil || slices.Contains(points, dir) != want {
			t.Errorf("volume %s: mounts %v, %v; in memory: %v", volume, points, err, want)
		}
	}
	l.delete("first", 1)
	if fi, err := os.Stat(filepath.Join(l.data, "pods", "uid-p", "volumes.d", "conf", "key")); err != nil || fi.Mode().Perm() != 0o400 {
		t.Errorf("defaultMode: %v %v", fi.Mode(), err)
	}
	conf.Data["key"] = "two"
	if _, err := l.client.CoreV1().ConfigMaps("default").Update(ctx, conf, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	holds("conf", "key", "two")
	p, err := l.client.CoreV1().Pods("default").Get(ctx, "p", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Labels["app"] = "two"
	if _, err := l.client.CoreV1().Pods("default").Update(ctx, p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	holds("meta", "labels", `app="two"`)
	// What is gone stays as it was in the volumes of those who run.
	if err := l.client.CoreV1().ConfigMaps("default").Delete(ctx, "conf", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	l.told("p", "FailedMount", `MountVolume.SetUp failed for volume "conf" : configmaps "conf" not found`)
	holds("conf", "key", "two")
	l.wait("p", "to be ready still", ready)
	l.delete("p", 1)
	l.clean()
}

// TestWhatVolumesAreMadeOf: Secrets and ConfigMaps, alone and together, with names and modes as asked for; what is
// missing is told, unless it may be.
func TestWhatVolumesAreMadeOf(t *testing.T) {
	l := newLab(t)
	for _, err := range []error{
		second(l.client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}, Data: map[string][]byte{"a": []byte("secret a"), "b": []byte("secret b")}}, metav1.CreateOptions{})),
		second(l.client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "default"}, Data: map[string]string{"a": "plain a"}, BinaryData: map[string][]byte{"bin": {0, 0xff}}}, metav1.CreateOptions{})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	some := func(key, path string, mode *int32) []corev1.KeyToPath {
		return []corev1.KeyToPath{{Key: key, Path: path, Mode: mode}}
	}
	secret := func(name string, items []corev1.KeyToPath, optional *bool) corev1.Volume {
		return corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, Items: items, DefaultMode: ptr(int32(0o440)), Optional: optional}}}
	}
	conf := func(name string, items []corev1.KeyToPath, optional *bool) corev1.Volume {
		return corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Items: items, Optional: optional}}}
	}
	together := corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: ptr(int32(0o444)), Sources: []corev1.VolumeProjection{
		{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Items: some("a", "deep/er/secret", ptr(int32(0o400)))}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "m"}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}},
	}}}}
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "kept"), []byte("by the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	l.hostVolume("on-host", host)
	rights := []struct {
		name   string
		volume corev1.Volume
		args   []string
		want   string
	}{
		{"secret", secret("s", nil, nil), []string{"stat", "/v/a", "/v/b"}, "/v/a 440 0 0\n/v/b 440 0 0\n"},
		{"secret-read", secret("s", nil, nil), []string{"file", "/v/b"}, "secret b"},
		{"secret-item", secret("s", some("a", "x/y", ptr(int32(0o400))), nil), []string{"stat", "/v/x/y"}, "/v/x/y 400 0 0\n"},
		{"map", conf("m", nil, nil), []string{"stat", "/v/a", "/v/bin"}, "/v/a 644 0 0\n/v/bin 644 0 0\n"},
		{"map-bytes", conf("m", nil, nil), []string{"file", "/v/bin"}, "\x00\xff"},
		{"together", together, []string{"stat", "/v/deep/er/secret", "/v/a", "/v/name"}, "/v/deep/er/secret 400 0 0\n/v/a 444 0 0\n/v/name 444 0 0\n"},
		{"together-read", together, []string{"file", "/v/deep/er/secret"}, "secret a"},
		{"together-name", together, []string{"file", "/v/name"}, "together-name"},
		{"may-miss", secret("none", nil, ptr(true)), []string{"stat", "/v"}, "/v 1777 0 0\n"},
		{"key-may-miss", conf("m", some("none", "x", nil), ptr(true)), []string{"stat", "/v"}, "/v 777 0 0\n"},
		{"host-volume", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "on-host"}}}, []string{"file", "/v/kept"}, "by the host"},
	}
	wrongs := []struct {
		name   string
		volume corev1.Volume
		words  string
	}{
		{"no-secret", secret("none", nil, nil), `MountVolume.SetUp failed for volume "v" : secrets "none" not found`},
		{"no-map", conf("none", nil, nil), `MountVolume.SetUp failed for volume "v" : configmaps "none" not found`},
		{"no-key", secret("s", some("none", "x", nil), nil), "references non-existent secret key: none"},
		{"no-claim", claim("none"), `persistentvolumeclaims "none" not found`},
	}
	for _, c := range rights {
		l.pod(c.name, with(c.volume), c.args...)
	}
	for _, c := range wrongs {
		l.pod(c.name, with(c.volume), "run")
	}
	for _, c := range rights {
		l.succeeds(c.name)
		if got := l.logs(c.name + "/c"); got != c.want {
			t.Errorf("%s says %q, want %q", c.name, got, c.want)
		}
		l.delete(c.name, 1)
	}
	for _, c := range wrongs {
		l.told(c.name, "FailedMount", c.words)
		l.delete(c.name, 1)
	}
	l.clean()
}

// second is the error of a call whose answer is of no interest.
func second[T any](_ T, err error) error { return err }

// hostVolume makes a claim that an operator has bound to a directory of the host.
func (l *lab) hostVolume(claim, dir string) {
	l.t.Helper()
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-" + claim}, Spec: corev1.PersistentVolumeSpec{
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		ClaimRef:                      &corev1.ObjectReference{Namespace: "default", Name: claim, UID: types.UID("uid-" + claim)},
		PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}},
	}}
	if _, err := l.client.CoreV1().PersistentVolumes().Create(l.env.Context(), pv, metav1.CreateOptions{}); err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.client.CoreV1().PersistentVolumeClaims("default").Create(l.env.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: claim, UID: types.UID("uid-" + claim)},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: pv.Name}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}, metav1.CreateOptions{}); err != nil {
		l.t.Fatal(err)
	}
}

func TestVolumesOfTheHost(t *testing.T) {
	l := newLab(t)
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(host, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for name, kind := range map[string]uint32{"char": unix.S_IFCHR, "block": unix.S_IFBLK} {
		if err := unix.Mknod(filepath.Join(host, name), kind|0o600, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatal(err)
		}
	}
	of := func(path string, kind corev1.HostPathType) corev1.Volume {
		return corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: filepath.Join(host, path), Type: &kind}}}
	}
	rights := []struct {
		name string
		v    corev1.Volume
	}{
		{"dir", of(".", corev1.HostPathDirectory)}, {"newdir", of("a/b", corev1.HostPathDirectoryOrCreate)}, {"file", of("file", corev1.HostPathFile)},
		{"newfile", of("fresh", corev1.HostPathFileOrCreate)}, {"socket", of("socket", corev1.HostPathSocket)},
		{"char", of("char", corev1.HostPathCharDev)}, {"block", of("block", corev1.HostPathBlockDev)}, {"any", of("c", corev1.HostPathUnset)},
	}
	wrongs := []struct {
		name, words string
		v           corev1.Volume
	}{
		{"nodir", "file is not a directory", of("file", corev1.HostPathDirectory)}, {"nofile", host + " is not a file", of(".", corev1.HostPathFile)},
		{"absent", "absent is not a directory", of("absent", corev1.HostPathDirectory)}, {"nosock", "file is not a socket file", of("file", corev1.HostPathSocket)},
		{"nochar", "file is not a character device", of("file", corev1.HostPathCharDev)}, {"noblock", "file is not a block device", of("file", corev1.HostPathBlockDev)},
	}
	for _, right := range rights {
		l.pod(right.name, with(right.v), "stat", "/host")
	}
	for _, wrong := range wrongs {
		l.pod(wrong.name, with(wrong.v), "run")
	}
	for _, right := range rights {
		l.succeeds(right.name)
		l.delete(right.name, 1)
	}
	for _, wrong := range wrongs {
		l.told(wrong.name, "FailedMount", wrong.words)
		l.told(wrong.name, "FailedMount", `MountVolume.SetUp failed for volume "host" : hostPath type check failed: `)
		l.delete(wrong.name, 1)
	}
	l.clean()
}

func TestMemoryVolumesAreBounded(t *testing.T) {
	l := newLab(t)
	limit := resource.MustParse("1Mi")
	memory := corev1.Volume{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &limit}}}
	l.pod("full", with(memory), "fill", "/mem/x", "2000000")
	l.wait("full", "to fail", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if got := l.logs("full/c"); !strings.Contains(got, "no space left on device") {
		t.Errorf("it says %q", got)
	}
	l.delete("full", 1)
	l.clean()
}
