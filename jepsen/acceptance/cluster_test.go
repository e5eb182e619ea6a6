package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"kontiki/jepsen/lab"
)

// patience bounds each wait. It is long beside what the waits take, since the
// machine may be busy; how long things take is the bench's to say.
const patience = 90 * time.Second

// TestMain lets the test binary work inside a host: fetch reads a list of URLs as
// JSON and answers what each returned; kernel lists what is there of a pod
// network, sabotage removes some of it; in1970 runs a program in another time.
func TestMain(m *testing.M) {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "fetch":
		err = fetchAll(os.Stdin, os.Stdout)
	case len(os.Args) == 2 && os.Args[1] == "kernel":
		var lines []string
		if lines, err = kernelLines(); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(lines)
		}
	case len(os.Args) == 3 && os.Args[1] == "sabotage":
		err = sabotage(os.Args[2])
	case len(os.Args) >= 3 && os.Args[1] == "in1970":
		err = in1970(os.Args[2:])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// answer is what a URL returned.
type answer struct {
	Status int    `json:"status"`
	Body   string `json:"body"` // or the error, with status 0
}

func fetchAll(in io.Reader, out io.Writer) error {
	var urls []string
	if err := json.NewDecoder(in).Decode(&urls); err != nil {
		return err
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answers := make([]answer, len(urls))
	for i, url := range urls {
		resp, err := client.Get(url)
		if err != nil {
			answers[i] = answer{0, err.Error()}
			continue
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		resp.Body.Close()
		if err != nil {
			answers[i] = answer{0, err.Error()}
			continue
		}
		answers[i] = answer{resp.StatusCode, string(body)}
	}
	return json.NewEncoder(out).Encode(answers)
}

// cluster is a lab in which a cluster runs.
type cluster struct {
	*lab.Lab
	bin string // the kontiki program
}

// newCluster starts a lab and removes it when the test ends.
func newCluster(t *testing.T, name string, nodes int) *cluster {
	t.Helper()
	c := newLab(t, lab.Config{Name: name}, nodes)
	var progress bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := c.Up(ctx, &progress)
	t.Logf("lab up:\n%s", progress.String())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newLab makes the hosts of a lab and removes it when the test ends.
func newLab(t *testing.T, cfg lab.Config, nodes int) *cluster {
	t.Helper()
	bin := os.Getenv("KONTIKI_BIN")
	if bin == "" {
		t.Skip("needs the built program: run make test")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root: a lab makes network and mount namespaces")
	}
	if cfg.Binary == "" {
		cfg.Binary = bin
	}
	reserve(t, cfg.Name)
	if err := lab.Down(cfg); err != nil { // of a run that was cut off
		t.Fatal(err)
	}
	l, err := lab.Create(cfg, nodes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, l)
		}
		if err := lab.Down(cfg); err != nil {
			t.Error(err)
		}
	})
	return &cluster{l, bin}
}

// reserve waits until no other run of the tests on this machine uses a lab of that name,
// which this one would take down. The name is let go with the process, however it ends.
func reserve(t *testing.T, name string) {
	t.Helper()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for first := true; ; first = false {
		held, err := net.Listen("unix", "@kontiki-acceptance-"+name)
		if err == nil {
			t.Cleanup(func() { held.Close() })
			return
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
		if first {
			t.Logf("another run of the tests uses the lab %q; waiting for its end", name)
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("waited in vain for the lab " + name)
		}
	}
}

// showLogs prints the end of each node's log.
func showLogs(t *testing.T, l *lab.Lab) {
	for _, h := range l.Hosts() {
		data, err := os.ReadFile(h.LogPath())
		if err != nil {
			t.Log(err)
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		t.Logf("the end of %s:\n%s", h.LogPath(), strings.Join(lines[max(0, len(lines)-60):], "\n"))
	}
}

// kubectl runs kubectl against one host's node and returns what it printed.
func (c *cluster) kubectl(t *testing.T, host *lab.Host, args ...string) string {
	t.Helper()
	out, err := c.tryKubectl(t.Context(), host, args...)
	if err != nil {
		t.Fatalf("kubectl %s on %s: %v", strings.Join(args, " "), host.Name, err)
	}
	return out
}

func (c *cluster) tryKubectl(ctx context.Context, host *lab.Host, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.bin, append([]string{"kubectl", "--kubeconfig", host.Kubeconfig(), "--request-timeout=60s"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// client speaks to one host's node.
func (c *cluster) client(t *testing.T, host *lab.Host) kubernetes.Interface {
	t.Helper()
	client, err := host.Client()
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// onEvery runs a kontiki command on every host.
func (c *cluster) onEvery(t *testing.T, args ...string) {
	t.Helper()
	for _, h := range c.Hosts() {
		var out bytes.Buffer
		if err := h.Exec(t.Context(), nil, &out, &out, "kontiki", args...); err != nil {
			t.Fatalf("kontiki %s on %s: %v\n%s", strings.Join(args, " "), h.Name, err, out.String())
		}
	}
}

// fetch fetches URLs from inside a host.
func (c *cluster) fetch(ctx context.Context, host *lab.Host, urls []string) ([]answer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	in, err := json.Marshal(urls)
	if err != nil {
		return nil, err
	}
	var out, errs bytes.Buffer
	if err := host.Exec(ctx, bytes.NewReader(in), &out, &errs, self, "fetch"); err != nil {
		return nil, fmt.Errorf("fetch on %s: %w: %s", host.Name, err, errs.String())
	}
	var answers []answer
	if err := json.Unmarshal(out.Bytes(), &answers); err != nil {
		return nil, err
	}
	return answers, nil
}

// leader is the host whose node leads, as host sees it.
func (c *cluster) leader(t *testing.T, host *lab.Host) *lab.Host {
	t.Helper()
	var name string
	c.eventually(t, "a leader to be known on "+host.Name, func(ctx context.Context) error {
		for _, s := range c.Status(ctx) {
			if s.Host == host.Name && s.Leader != "" {
				name = s.Leader
				return nil
			}
		}
		return errors.New("no leader is known")
	})
	h, err := c.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// eventually waits until check succeeds, bounded by patience.
func (c *cluster) eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil || last == nil { // else it says no more than that the time was over
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %v for %s: %v", patience, what, last)
		}
	}
}

// readyPods are the pods with a label that are Ready and not going away.
func readyPods(ctx context.Context, client kubernetes.Interface, selector string) ([]corev1.Pod, error) {
	list, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	var ready []corev1.Pod
	for _, pod := range list.Items {
		if pod.DeletionTimestamp != nil {
			continue
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				ready = append(ready, pod)
			}
		}
	}
	return ready, nil
}

// waitPods waits until exactly n pods are there, all Ready.
func (c *cluster) waitPods(t *testing.T, client kubernetes.Interface, n int) []corev1.Pod {
	t.Helper()
	var pods []corev1.Pod
	c.eventually(t, fmt.Sprintf("%d ready pods", n), func(ctx context.Context) (err error) {
		if pods, err = readyPods(ctx, client, "app=web"); err != nil {
			return err
		}
		if len(pods) != n {
			return fmt.Errorf("%d pods are ready", len(pods))
		}
		return nil
	})
	return pods
}

// example is a file of examples/.
func example(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
