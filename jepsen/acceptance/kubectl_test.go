package acceptance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kontiki/jepsen/lab"
)

// command is one that a user types, and what its output must have.
type command struct {
	args string
	want string // empty: anything
}

const kubectlManifest = `apiVersion: v1
kind: ConfigMap
metadata: {name: words, namespace: typed, labels: {app: words}}
data: {a: one}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle, namespace: typed}
spec:
  replicas: 0
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec: {containers: [{name: c, image: none}]}
`

// kubectlCommands are typed one after another; FILE is kubectlManifest's.
var kubectlCommands = []command{
	{"create namespace typed", "namespace/typed created"},
	{"api-resources --namespaced=false", "customresourcedefinitions"},
	{"api-versions", "metrics.k8s.io/v1beta1"},
	{"explain deployment.spec.strategy.rollingUpdate", "maxSurge"},
	{"explain resourceclaims.spec.devices --recursive", "exactly"},
	{"apply -f FILE", "deployment.apps/idle created"},
	{"apply -f FILE", "configmap/words unchanged"},
	{"diff -f FILE", ""},
	{"apply --server-side --force-conflicts -f FILE", "configmap/words serverside-applied"},
	{"get -n typed deployments -o wide", "NAME   READY   UP-TO-DATE   AVAILABLE   AGE   CONTAINERS   IMAGES   SELECTOR"},
	{"get -n typed deployments,configmaps -l app=words -o name", "configmap/words"},
	{"patch -n typed configmap words --type=merge -p {\"data\":{\"b\":\"two\"}}", "patched"},
	{"patch -n typed configmap words --type=json -p [{\"op\":\"replace\",\"path\":\"/data/b\",\"value\":\"three\"}]", "patched"},
	{"patch -n typed deployment idle -p {\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"other\"}]}}}}", "patched"},
	{"get -n typed deployment idle -o jsonpath={.spec.template.spec.containers[*].image}", "other"},
	{"label -n typed configmap words tier=front --overwrite", "labeled"},
	{"annotate -n typed configmap words note=kept", "annotated"},
	{"edit -n typed configmap words", "edited"},
	{"get -n typed configmap words -o jsonpath={.data}", `"a":"ONE"`},
	{"wait -n typed deployment idle --for=condition=Available --timeout=60s", "condition met"},
	{"scale -n typed deployment idle --replicas=0", "scaled"},
	{"rollout status -n typed deployment idle --timeout=60s", "successfully rolled out"},
	{"create -n typed serviceaccount robot", "created"},
	{"create -n typed token robot --duration=1h", "."},
	{"create -n typed rolebinding robot --clusterrole=view --serviceaccount=typed:robot", "created"},
	{"auth can-i list pods -n typed --as=system:serviceaccount:typed:robot", "yes"},
	{"auth whoami", "Username"},
	{"describe -n typed deployment idle", "StrategyType"},
	{"create -n typed quota few --hard=pods=3", "created"},
	{"get --raw /api/v1/namespaces/typed/configmaps?limit=1", "ConfigMapList"},
	{"delete -n typed deployment idle --cascade=foreground --wait", "deleted"},
	{"delete namespace typed --wait", "deleted"},
}

// everyCommand types kubectlCommands at one host's node.
func (c *cluster) everyCommand(t *testing.T, h *lab.Host) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "words.yaml")
	if err := os.WriteFile(file, []byte(kubectlManifest), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBE_EDITOR", `sed -i s/one/ONE/`)
	for _, cmd := range kubectlCommands {
		args := strings.Split(cmd.args, " ")
		for i := range args {
			if args[i] == "FILE" {
				args[i] = file
			}
		}
		out, err := c.tryKubectl(t.Context(), h, args...)
		if err != nil {
			t.Fatalf("kubectl %s: %v", cmd.args, err)
		}
		if !strings.Contains(out, cmd.want) {
			t.Errorf("kubectl %s printed\n%s\nwant %q in it", cmd.args, out, cmd.want)
		}
	}
	c.watchTyped(t, h)
}

// watchTyped is get --watch, which ends when it is killed.
func (c *cluster) watchTyped(t *testing.T, h *lab.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	watched := exec.CommandContext(ctx, c.bin, "kubectl", "--kubeconfig", h.Kubeconfig(), "get", "configmaps", "-n", "default", "--watch-only", "--output-watch-events")
	out, err := watched.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watched.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			select {
			case lines <- scanner.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() {
		cancel()
		_ = watched.Wait() // killed
	}()
	for i := 0; ; i++ {
		name := fmt.Sprintf("watched-%d", i) // until the watch has begun
		c.kubectl(t, h, "create", "configmap", name, "-n", "default")
		c.kubectl(t, h, "delete", "configmap", name, "-n", "default")
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatal("get --watch ended")
			}
			if strings.Contains(line, "watched-") {
				return
			}
		case <-time.After(time.Second):
		}
	}
}

// withoutQuorum kills all but one node and looks at what the last one says.
func (c *cluster) withoutQuorum(t *testing.T, last *lab.Host) {
	t.Helper()
	for _, h := range c.others(last) {
		if err := h.Signal(t.Context(), syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Logf("%s: %v", h.Name, err) // one is dead already
		}
	}
	c.eventually(t, "stale pods", func(ctx context.Context) error {
		out, err := c.tryKubectl(ctx, last, "get", "nodes", "--stale", "-o", "name")
		if err == nil && strings.Count(out, "node/") != 3 {
			err = fmt.Errorf("nodes are %q", out)
		}
		return err
	})
	if _, err := c.tryKubectl(t.Context(), last, "delete", "--stale", "node", last.Name); err == nil || !strings.Contains(err.Error(), "--stale only reads") {
		t.Errorf("delete --stale: %v", err)
	}
	began := time.Now()
	_, err := c.tryKubectl(t.Context(), last, "get", "nodes")
	if err == nil || !strings.Contains(err.Error(), "quorum") {
		t.Errorf("without a quorum: %v", err)
	}
	t.Logf("refused after %v: %v", time.Since(began).Round(time.Millisecond), err)
}
