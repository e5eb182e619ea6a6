package acceptance

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/kubectl/pkg/scheme"

	"kontiki/jepsen/lab"
)

// TestEnter enters pods in every way kubectl knows, from a node that is not theirs.
func TestEnter(t *testing.T) {
	c := newCluster(t, "enter", 3)
	c.busybox(t)
	here, there := c.Hosts()[0], c.Hosts()[1]
	client := c.client(t, here)
	pod := func(name string, command ...string) *corev1.Pod {
		grace := int64(1)
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: there.Name, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "main", Image: busyboxImage, Command: command}}}}
	}
	shell := pod("shell", "/bin/sh", "-c", "mkdir -p /www && echo served > /www/index.html && httpd -p 127.0.0.1:8080 -h /www && httpd -p 8081 -h /www && echo up && exec sleep 1000000")
	input := pod("input", "/bin/cat")
	input.Spec.Containers[0].Stdin, input.Spec.Containers[0].StdinOnce = true, true
	input.Spec.RestartPolicy = corev1.RestartPolicyNever
	terminal := pod("terminal", "/bin/sh")
	terminal.Spec.Containers[0].Stdin, terminal.Spec.Containers[0].TTY = true, true
	shell.Labels = map[string]string{"app": "shell"}
	for _, p := range []*corev1.Pod{shell, input, terminal} {
		if _, err := client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.kubectl(t, here, "wait", "--for=condition=Ready", "pod/"+p.Name, "--timeout=60s")
	}
	t.Run("exec", func(t *testing.T) { c.execs(t, here) })
	t.Run("the same from the pod's own node", func(t *testing.T) {
		c.execs(t, there)
		c.forwards(t, there)
	})
	t.Run("exec over SPDY", func(t *testing.T) { c.execsSPDY(t, here) })
	t.Run("exec with a terminal", func(t *testing.T) { c.execsTerminal(t, here) })
	t.Run("cp", func(t *testing.T) { c.copies(t, here) })
	t.Run("port-forward", func(t *testing.T) { c.forwards(t, here) })
	t.Run("proxy to a Service and to a pod", func(t *testing.T) { c.proxies(t, here) })
	t.Run("debug", func(t *testing.T) { c.debugs(t, here, there) })
	t.Run("top", c.tops)
	t.Run("attach", func(t *testing.T) {
		out, err := c.stdin(t, here, "to be repeated\n", "attach", "-i", "input")
		if err != nil || !strings.Contains(out, "to be repeated\n") {
			t.Errorf("%q %v", out, err)
		}
		c.kubectl(t, here, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/input", "--timeout=60s")
		if out := c.kubectl(t, here, "logs", "input"); out != "to be repeated\n" {
			t.Errorf("log: %q", out)
		}
	})
	t.Run("attach to a terminal", func(t *testing.T) {
		c.attachesTerminal(t, here)
		if out := c.kubectl(t, here, "logs", "terminal"); !strings.Contains(out, "sum 42") {
			t.Errorf("log of a terminal: %q", out)
		}
	})
	t.Run("a node out of reach", func(t *testing.T) {
		if err := there.Signal(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_, err := c.tryKubectl(t.Context(), here, "exec", "shell", "--", "true")
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("the agent of node %q is not in reach", there.Name)) {
			t.Errorf("exec on a dead node: %v", err)
		}
	})
}

// proxies fetches a page of a pod that runs on another node through the API: by the
// names of a Service's port, its number, and the pod.
func (c *cluster) proxies(t *testing.T, host *lab.Host) {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "shell"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "shell"}, Ports: []corev1.ServicePort{{Name: "web", Port: 80, TargetPort: intstr.FromInt32(8081)}}}}
	if _, err := c.client(t, host).CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"services/shell:web", "services/shell:80", "services/http:shell:web", "pods/shell:8081"} {
		// The slice is made by a controller, and every node hears of it a little later.
		c.eventually(t, path+" to answer", func(ctx context.Context) error {
			out, err := c.tryKubectl(ctx, host, "get", "--raw", "/api/v1/namespaces/default/"+path+"/proxy/index.html")
			if err == nil && out != "served\n" {
				err = fmt.Errorf("it answers %q", out)
			}
			return err
		})
	}
	if _, err := c.tryKubectl(t.Context(), host, "get", "--raw", "/api/v1/namespaces/default/services/shell:web/proxy/none"); err == nil || !strings.Contains(err.Error(), "404") && !strings.Contains(err.Error(), "could not find") {
		t.Errorf("a page that is not there: %v", err)
	}
}

// stdin runs kubectl with input.
func (c *cluster) stdin(t *testing.T, host *lab.Host, in string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.bin, append([]string{"kubectl", "--kubeconfig", host.Kubeconfig()}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errs.String())
	}
	return out.String(), err
}

func (c *cluster) execs(t *testing.T, host *lab.Host) {
	if out := c.kubectl(t, host, "exec", "shell", "--", "echo", "from inside"); out != "from inside\n" {
		t.Errorf("%q", out)
	}
	var exit *exec.ExitError
	out, err := c.tryKubectl(t.Context(), host, "exec", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || out != "out\n" || !strings.Contains(err.Error(), "err\n") {
		t.Errorf("%q %v, want exit code 7 and both outputs", out, err)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16) // a MiB there and back
	if out, err := c.stdin(t, host, big, "exec", "-i", "shell", "--", "cat"); err != nil || out != big {
		t.Errorf("%d bytes came back of %d: %v", len(out), len(big), err)
	}
	if _, err := c.tryKubectl(t.Context(), host, "exec", "shell", "--", "no-such-program"); err == nil {
		t.Error("a program that is not there ran")
	}
	if _, err := c.tryKubectl(t.Context(), host, "exec", "shell", "-c", "none", "--", "true"); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a container that is not there: %v", err)
	}
	if out := c.kubectl(t, host, "exec", "shell", "--", "sh", "-c", "sleep 1000 & echo left"); out != "left\n" {
		t.Errorf("%q", out)
	}
}

// remote is a command run by client-go, with the streams given.
func (c *cluster) remote(t *testing.T, host *lab.Host, pod, subresource string, spdy bool, o corev1.PodExecOptions, streams remotecommand.StreamOptions) error {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", host.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	req := c.client(t, host).CoreV1().RESTClient().Post().Resource("pods").Namespace("default").Name(pod).SubResource(subresource)
	if subresource == "attach" {
		req.VersionedParams(&corev1.PodAttachOptions{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, TTY: o.TTY}, scheme.ParameterCodec)
	} else {
		req.VersionedParams(&o, scheme.ParameterCodec)
	}
	var ex remotecommand.Executor
	if spdy {
		ex, err = remotecommand.NewSPDYExecutor(cfg, http.MethodPost, req.URL())
	} else {
		ex, err = remotecommand.NewWebSocketExecutor(cfg, http.MethodGet, req.URL().String())
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return ex.StreamWithContext(ctx, streams)
}

func (c *cluster) execsSPDY(t *testing.T, host *lab.Host) {
	var out bytes.Buffer
	err := c.remote(t, host, "shell", "exec", true, corev1.PodExecOptions{Stdin: true, Stdout: true, Command: []string{"cat"}},
		remotecommand.StreamOptions{Stdin: strings.NewReader("spdy"), Stdout: &out})
	if err != nil || out.String() != "spdy" {
		t.Errorf("%q %v", out.String(), err)
	}
}

// sizes tells a terminal's size once.
type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	if size, ok := <-s; ok {
		return &size
	}
	return nil
}

// talk is a conversation with a shell.
type talk struct {
	in   *io.PipeWriter
	out  *bufio.Reader
	done chan error
}

// converse runs a shell with a terminal and says lines one after the other, each
// after what it waits for.
func (c *cluster) converse(t *testing.T, host *lab.Host, pod, subresource string, o corev1.PodExecOptions) *talk {
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	k := &talk{in: inW, out: bufio.NewReader(outR), done: make(chan error, 1)}
	queue := make(sizes, 1)
	queue <- remotecommand.TerminalSize{Width: 99, Height: 44}
	o.Stdin, o.Stdout, o.TTY = true, true, true
	go func() {
		err := c.remote(t, host, pod, subresource, false, o, remotecommand.StreamOptions{Stdin: inR, Stdout: outW, Tty: true, TerminalSizeQueue: queue})
		outW.CloseWithError(io.EOF)
		k.done <- err
	}()
	t.Cleanup(func() { close(queue); inW.Close() })
	return k
}

// until reads to the first line that matches.
func (k *talk) until(t *testing.T, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	var all strings.Builder
	for !re.MatchString(all.String()) {
		b, err := k.out.ReadByte()
		if err != nil {
			t.Fatalf("the terminal ended before it said %q: %v\n%s", pattern, err, all.String())
		}
		all.WriteByte(b)
	}
}

func (k *talk) say(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(k.in, line); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) execsTerminal(t *testing.T, host *lab.Host) {
	k := c.converse(t, host, "shell", "exec", corev1.PodExecOptions{Command: []string{"sh"}})
	k.until(t, `[#$] `)
	k.say(t, "while [ \"$(stty size)\" != '44 99' ]; do sleep 0.05; done; echo size $((40+2)); tty\n")
	k.until(t, `size 42\r\n/dev/(pts/\d+|console)`)
	k.say(t, "exit 5\n")
	go io.Copy(io.Discard, k.out)
	select {
	case err := <-k.done:
		if err == nil || !strings.Contains(err.Error(), "exit code 5") {
			t.Errorf("the shell ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("waited for the shell to end")
	}
}

func (c *cluster) attachesTerminal(t *testing.T, host *lab.Host) {
	k := c.converse(t, host, "terminal", "attach", corev1.PodExecOptions{})
	k.say(t, "echo sum $((40+2))\n")
	k.until(t, `sum 42\r\n`)
	go io.Copy(io.Discard, k.out)
}

func (c *cluster) copies(t *testing.T, host *lab.Host) {
	dir := t.TempDir()
	data := bytes.Repeat([]byte("kontiki\x00"), 1<<17)
	if err := os.WriteFile(filepath.Join(dir, "in"), data, 0o640); err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, host, "cp", filepath.Join(dir, "in"), "shell:/tmp/copied")
	if out := c.kubectl(t, host, "exec", "shell", "--", "sh", "-c", "wc -c < /tmp/copied"); strings.TrimSpace(out) != fmt.Sprint(len(data)) {
		t.Errorf("the copy has %s bytes", out)
	}
	c.kubectl(t, host, "cp", "shell:/tmp/copied", filepath.Join(dir, "back"))
	if back, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || !bytes.Equal(back, data) {
		t.Errorf("%d bytes came back of %d: %v", len(back), len(data), err)
	}
}

// forwards reaches a server that listens on the pod's loopback only.
func (c *cluster) forwards(t *testing.T, host *lab.Host) {
	cmd := exec.Command(c.bin, "kubectl", "--kubeconfig", host.Kubeconfig(), "port-forward", "pod/shell", ":8080", ":9")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	ports := map[string]string{}
	sc := bufio.NewScanner(out)
	line := regexp.MustCompile(`127\.0\.0\.1:(\d+) -> (\d+)`)
	for len(ports) < 2 && sc.Scan() {
		if m := line.FindStringSubmatch(sc.Text()); m != nil {
			ports[m[2]] = m[1]
		}
	}
	if len(ports) != 2 {
		t.Fatalf("port-forward said nothing of its ports: %s", errs.String())
	}
	go io.Copy(io.Discard, out)
	web := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	for range 3 {
		resp, err := web.Get("http://127.0.0.1:" + ports["8080"] + "/")
		if err != nil {
			t.Fatalf("%v: %s", err, errs.String())
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != "served\n" {
			t.Errorf("%q %v", body, err)
		}
	}
	if resp, err := web.Get("http://127.0.0.1:" + ports["9"] + "/"); err == nil {
		resp.Body.Close()
		t.Error("something answered on a port where nobody listens")
	}
}
