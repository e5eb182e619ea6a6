package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// TestVolumes follows what pods keep on disk: through their deletion, scaling down
// and up, and to its end; and what they are told through volumes.
func TestVolumes(t *testing.T) {
	c := newCluster(t, "vol", 3)
	c.busybox(t)
	c.probes(t)
	n1 := c.Hosts()[0]
	client := c.client(t, n1)
	c.eventually(t, "the default StorageClass", func(ctx context.Context) error {
		out, err := c.tryKubectl(ctx, n1, "get", "storageclass", "--no-headers")
		if err == nil && strings.Join(strings.Fields(out)[:6], " ") != "local-path (default) kontiki.io/local-path Delete WaitForFirstConsumer false" {
			err = fmt.Errorf("there is %q", out)
		}
		return err
	})
	c.kubectl(t, n1, "apply", "-f", filepath.Join("testdata", "volumes.yaml"))
	v := volumes{c, t, client}

	t.Run("a claim waits for its first consumer", func(t *testing.T) {
		c.eventually(t, "the claim to say so", func(ctx context.Context) error {
			out, err := c.tryKubectl(ctx, n1, "describe", "pvc", "unused")
			if err == nil && !strings.Contains(out, "waiting for first consumer to be created before binding") {
				err = errors.New(out)
			}
			return err
		})
	})
	on := c.waitFor(t, client, "app=db", 3)
	born := v.born()
	t.Run("a pod that is deleted finds its data again", func(t *testing.T) {
		c.kubectl(t, n1, "delete", "pod", "db-1")
		now := c.waitFor(t, client, "app=db", 3)
		if now["db-1"] != on["db-1"] {
			t.Errorf("db-1 was on %s and is on %s", on["db-1"], now["db-1"])
		}
		v.same(born)
	})
	t.Run("and so do pods that were scaled away", func(t *testing.T) {
		c.kubectl(t, n1, "scale", "statefulset/db", "--replicas=1")
		c.waitFor(t, client, "app=db", 1)
		if n := len(v.claims("db")); n != 3 {
			t.Errorf("%d claims are left of three", n)
		}
		c.kubectl(t, n1, "scale", "statefulset/db", "--replicas=3")
		c.waitFor(t, client, "app=db", 3)
		v.same(born)
	})
	t.Run("a claim in use waits to be deleted, then its directory goes", func(t *testing.T) {
		pv := v.of("data-db-2")
		node := on["db-2"]
		if out, err := v.directory(node, pv.Spec.Local.Path); err != nil || out != "born\n" {
			t.Errorf("%s on %s: %q, %v", pv.Spec.Local.Path, node, out, err)
		}
		c.kubectl(t, n1, "delete", "pvc", "data-db-2", "--wait=false")
		c.kubectl(t, n1, "exec", "db-2", "--", "cat", "/data/born")
		if claim, err := client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "data-db-2", metav1.GetOptions{}); err != nil || claim.DeletionTimestamp == nil {
			t.Errorf("the claim of a running pod: %+v, %v", claim, err)
		}
		c.kubectl(t, n1, "scale", "statefulset/db", "--replicas=2")
		v.reclaimed("data-db-2", pv, node)
	})
	t.Run("claims go with what was scaled away, where the set says so", func(t *testing.T) {
		pv := v.of("data-db-1")
		c.kubectl(t, n1, "patch", "statefulset", "db", "--patch", `{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenScaled":"Delete"}}}`)
		c.kubectl(t, n1, "scale", "statefulset/db", "--replicas=1")
		v.reclaimed("data-db-1", pv, on["db-1"])
		if left := v.claims("db"); len(left) != 1 || left[0] != "data-db-0" {
			t.Errorf("claims left: %v", left)
		}
	})
	t.Run("a pod asks the API with the token that was mounted", func(t *testing.T) {
		c.kubectl(t, n1, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/asks", "--timeout=60s")
		if out := c.kubectl(t, n1, "logs", "asks"); !strings.HasPrefix(out, "200 OK\n") || !strings.Contains(out, `"name":"db-0"`) {
			t.Errorf("it was told %q", out)
		}
	})
	t.Run("a pod that writes more than it may is evicted", func(t *testing.T) {
		c.eventually(t, "the pod to be evicted", func(ctx context.Context) error {
			pod, err := client.CoreV1().Pods("default").Get(ctx, "greedy", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if s := pod.Status; s.Phase != corev1.PodFailed || s.Reason != "Evicted" || s.Message != `Usage of EmptyDir volume "cache" exceeds the limit "1Mi". ` {
				return fmt.Errorf("%s %s %q", s.Phase, s.Reason, s.Message)
			}
			return nil
		})
	})
}

type volumes struct {
	*cluster
	t      *testing.T
	client kubernetes.Interface
}

// born is what each pod of the set wrote when it first came.
func (v volumes) born() map[string]string {
	v.t.Helper()
	all := map[string]string{}
	for _, pod := range []string{"db-0", "db-1", "db-2"} {
		all[pod] = v.kubectl(v.t, v.Hosts()[0], "exec", pod, "--", "cat", "/data/born")
		if all[pod] == "" {
			v.t.Errorf("%s has written nothing", pod)
		}
	}
	return all
}

func (v volumes) same(born map[string]string) {
	v.t.Helper()
	for pod, now := range v.born() {
		if now != born[pod] {
			v.t.Errorf("%s wrote %q and finds %q", pod, born[pod], now)
		}
	}
}

func (v volumes) claims(app string) (names []string) {
	v.t.Helper()
	list, err := v.client.CoreV1().PersistentVolumeClaims("default").List(v.t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		v.t.Fatal(err)
	}
	for _, claim := range list.Items {
		names = append(names, claim.Name)
	}
	return names
}

// of is the volume of a claim.
func (v volumes) of(claim string) *corev1.PersistentVolume {
	v.t.Helper()
	c, err := v.client.CoreV1().PersistentVolumeClaims("default").Get(v.t.Context(), claim, metav1.GetOptions{})
	if err != nil {
		v.t.Fatal(err)
	}
	pv, err := v.client.CoreV1().PersistentVolumes().Get(v.t.Context(), c.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		v.t.Fatal(err)
	}
	return pv
}

// directory lists, in its host, where a volume lies.
func (v volumes) directory(node, path string) (string, error) {
	v.t.Helper()
	host, err := v.Host(node)
	if err != nil {
		v.t.Fatal(err)
	}
	var out bytes.Buffer
	err = host.Exec(v.t.Context(), nil, &out, &out, "ls", path)
	return out.String(), err
}

// reclaimed waits until claim, volume and directory are gone.
func (v volumes) reclaimed(claim string, pv *corev1.PersistentVolume, node string) {
	v.t.Helper()
	v.eventually(v.t, "claim "+claim+", its volume and its directory to be gone", func(ctx context.Context) error {
		_, err := v.client.CoreV1().PersistentVolumeClaims("default").Get(ctx, claim, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return errors.Join(err, errors.New("the claim is there"))
		}
		if _, err := v.client.CoreV1().PersistentVolumes().Get(ctx, pv.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errors.Join(err, errors.New("the volume is there"))
		}
		if out, err := v.directory(node, pv.Spec.Local.Path); err == nil || !strings.Contains(out, "No such file or directory") {
			return fmt.Errorf("the directory is there: %q", out)
		}
		return nil
	})
}
