package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"golang.org/x/sys/unix"

	"kontiki/jepsen/lab"
)

// killRounds is how often TestKills kills; KONTIKI_KILL_ROUNDS says otherwise.
const killRounds = 4

// TestKills kills the node, the shim or both at random moments while pods start,
// run and stop. Nothing may be left of pods that are gone, what should run goes on
// as the same process, and exit codes are right or said to be unknown.
func TestKills(t *testing.T) {
	rounds := killRounds
	if s := os.Getenv("KONTIKI_KILL_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatalf("KONTIKI_KILL_ROUNDS: %v", err)
		}
	}
	c := newCluster(t, "kill", 1)
	c.busybox(t)
	host := c.Hosts()[0]
	k := &killer{c: c, lab: "kill", host: host, client: c.client(t, host), seed: rand.Uint64()}
	t.Logf("seed %d, %d rounds", k.seed, rounds)
	k.random = rand.New(rand.NewPCG(k.seed, 0))
	k.create(t, "steady", corev1.RestartPolicyAlways, "exec sleep 1000000")
	steady := k.wait(t, "steady", "to run", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Running != nil
	})
	for round := range rounds {
		k.round(t, round)
		p := k.wait(t, "steady", "to be known to run", func(p *corev1.Pod) bool { return len(p.Status.ContainerStatuses) == 1 })
		was, is := steady.Status.ContainerStatuses[0], p.Status.ContainerStatuses[0]
		if is.RestartCount != 0 || is.ContainerID != was.ContainerID || is.State.Running == nil || !is.State.Running.StartedAt.Equal(&was.State.Running.StartedAt) {
			t.Fatalf("round %d: the pod that should run was %+v and is %+v", round, was, is)
		}
		if t.Failed() {
			return
		}
	}
	k.delete(t, "steady", 1)
	k.clean(t)
}

type killer struct {
	c      *cluster
	lab    string // its name
	host   *lab.Host
	client kubernetes.Interface
	seed   uint64
	random *rand.Rand
}

func (k *killer) create(t *testing.T, name string, policy corev1.RestartPolicy, script string) {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{RestartPolicy: policy,
		Volumes:    []corev1.Volume{{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}},
		Containers: []corev1.Container{{Name: "main", Image: busyboxImage, Command: []string{"/bin/sh", "-c", script}, VolumeMounts: []corev1.VolumeMount{{Name: "memory", MountPath: "/memory"}}}}}}
	k.c.eventually(t, "pod "+name+" to be created", func(ctx context.Context) error {
		_, err := k.client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

func (k *killer) wait(t *testing.T, name, what string, ok func(*corev1.Pod) bool) (pod *corev1.Pod) {
	t.Helper()
	k.c.eventually(t, "pod "+name+" "+what, func(ctx context.Context) (err error) {
		if pod, err = k.client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		if !ok(pod) {
			return fmt.Errorf("its status is %+v", pod.Status)
		}
		return nil
	})
	return pod
}

func (k *killer) delete(t *testing.T, name string, grace int64) {
	t.Helper()
	k.c.eventually(t, "pod "+name+" to be deleted", func(ctx context.Context) error {
		err := k.client.CoreV1().Pods("default").Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// round has pods start and stop, and kills in between.
func (k *killer) round(t *testing.T, round int) {
	t.Helper()
	name := func(kind string) string { return fmt.Sprintf("%s-%d", kind, round) }
	k.create(t, name("code"), corev1.RestartPolicyNever, "exit 3")
	k.create(t, name("brief"), corev1.RestartPolicyNever, "sleep 0.3; exit 4")
	k.create(t, name("going"), corev1.RestartPolicyAlways, "exec sleep 1000000")
	k.create(t, name("stopping"), corev1.RestartPolicyAlways, "exec sleep 1000000")
	if round%2 == 0 {
		k.wait(t, name("stopping"), "to run", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
		k.delete(t, name("stopping"), 1)
	}
	k.pause(t)
	shimDied := k.kill(t)
	k.c.eventually(t, "the node to be back", func(ctx context.Context) error {
		_, err := k.client.CoreV1().Nodes().Get(ctx, k.host.Name, metav1.GetOptions{})
		return err
	})
	for kind, want := range map[string]int32{"code": 3, "brief": 4} {
		p := k.wait(t, name(kind), "to end", func(p *corev1.Pod) bool {
			return p.Status.Phase == corev1.PodFailed && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Terminated != nil
		})
		s := p.Status.ContainerStatuses[0].State.Terminated
		unknown := shimDied && s.ExitCode == 137 && s.Reason == "ContainerStatusUnknown"
		if s.ExitCode != want && !unknown {
			t.Errorf("round %d: %s ended as %+v, want exit code %d (the shim died: %v)", round, p.Name, s, want, shimDied)
		}
	}
	k.wait(t, name("going"), "to run", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	for _, kind := range []string{"code", "brief", "going", "stopping"} {
		k.delete(t, name(kind), 1)
	}
	k.c.eventually(t, "only the steady pod to be left", func(ctx context.Context) error {
		list, err := k.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 {
			return fmt.Errorf("%d pods are there", len(list.Items))
		}
		return nil
	})
}

// pause lets a random moment pass, so that the kill comes at any point.
func (k *killer) pause(t *testing.T) {
	select {
	case <-time.After(time.Duration(k.random.IntN(700)) * time.Millisecond):
	case <-t.Context().Done():
	}
}

// kill kills the node, the shim or both, and has the node come back.
func (k *killer) kill(t *testing.T) (shimDied bool) {
	t.Helper()
	what := k.random.IntN(3)
	pid, err := k.shimPid()
	if err != nil {
		t.Fatal(err)
	}
	if what != 0 {
		shimDied = true
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatalf("kill the shim: %v", err)
		}
	}
	if what == 1 {
		return shimDied
	}
	if err := k.host.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	k.pause(t)
	if err := k.host.Start(); err != nil {
		t.Fatal(err)
	}
	return shimDied
}

// shimPid asks the kernel who answers on the shim's socket.
func (k *killer) shimPid() (int, error) {
	conn, err := net.Dial("unix", filepath.Join(k.host.DataDir(), "run", "shim", "shim.sock"))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, cerr
	}
	return int(cred.Pid), nil
}

// clean checks that nothing of any pod is left on the host.
func (k *killer) clean(t *testing.T) {
	t.Helper()
	data := k.host.DataDir()
	k.c.eventually(t, "nothing to be left of any pod", func(ctx context.Context) error {
		var left []string
		for _, dir := range []string{"pods", "images/uses", "run/shim/sandboxes", "run/shim/containers", "run/shim/exits", "run/shim/state"} {
			entries, err := os.ReadDir(filepath.Join(data, dir))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			for _, e := range entries {
				left = append(left, filepath.Join(dir, e.Name()))
			}
		}
		var mounts bytes.Buffer
		if err := k.host.Exec(ctx, nil, &mounts, &mounts, "cat", "/proc/self/mountinfo"); err != nil {
			return err
		}
		for line := range strings.Lines(mounts.String()) {
			f := strings.Fields(line)
			if len(f) > 4 && (strings.HasPrefix(f[4], filepath.Join(data, "pods")) || strings.HasPrefix(f[4], filepath.Join(data, "run", "shim"))) {
				left = append(left, "mount "+f[4])
			}
		}
		groups, err := podCgroups("kontiki-lab-" + k.lab)
		if err != nil {
			return err
		}
		if left = append(left, groups...); len(left) > 0 {
			slices.Sort(left)
			return fmt.Errorf("left: %s", strings.Join(left, ", "))
		}
		return nil
	})
}

// podCgroups lists the groups of pods below a lab's.
func podCgroups(lab string) (found []string, err error) {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/" + lab)
	if err != nil {
		return nil, err
	}
	for _, root := range append(roots, "/sys/fs/cgroup/"+lab) {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "pod") {
				found = append(found, path)
				return fs.SkipDir
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}
