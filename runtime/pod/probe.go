package pod

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kontiki/runtime/shim"
)

// startProbes runs a container's probes until the returned function is called.
// Their goroutines look at nothing of the worker but what they are given here.
func (w *Worker) startProbes(ctx context.Context, c *corev1.Container, st *Container) context.CancelFunc {
	ctx, cancel := context.WithCancel(ctx)
	t := &target{w: w, pod: w.rec.Pod, c: c, id: st.ID, exec: st.Exec, host: first(w.sources(ctx).podIPs)}
	started := &atomic.Bool{}
	started.Store(st.Started)
	attempt := st.Attempt
	on := func(change func(*Container)) {
		w.post(func(r *Record) {
			if cur := r.Containers[c.Name]; cur.Attempt == attempt && cur.State == Running {
				change(cur)
			}
		})
	}
	condemn := func(kind string, p *corev1.Probe) {
		on(func(cur *Container) {
			cur.KillGrace = p.TerminationGracePeriodSeconds
			cur.KillReason = fmt.Sprintf("Container %s failed %s probe, will be restarted", c.Name, kind)
		})
	}
	run := func(kind string, p *corev1.Probe, wait bool, result func(ok bool)) {
		if p == nil {
			return
		}
		w.jobs.Go(func() { t.loop(ctx, kind, p, st.StartedAt, wait, started, result) })
	}
	if !st.Started {
		run("Startup", c.StartupProbe, false, func(ok bool) {
			if !ok {
				condemn("startup", c.StartupProbe)
				return
			}
			started.Store(true)
			on(func(cur *Container) {
				cur.Started = true
				cur.Ready = c.ReadinessProbe == nil
				w.commitBeside()
			})
		})
	}
	run("Liveness", c.LivenessProbe, true, func(ok bool) {
		if !ok {
			condemn("liveness", c.LivenessProbe)
		}
	})
	run("Readiness", c.ReadinessProbe, true, func(ok bool) {
		on(func(cur *Container) {
			if cur.Ready != ok {
				cur.Ready = ok
				w.commitBeside()
			}
		})
	})
	return cancel
}

// target is what a probe asks.
type target struct {
	w    *Worker
	pod  *corev1.Pod
	c    *corev1.Container
	id   string
	exec shim.ExecSpec
	host string
}

// loop asks until ctx ends, and tells of results that passed their threshold.
// A startup probe ends with its first result.
func (t *target) loop(ctx context.Context, kind string, p *corev1.Probe, began time.Time, wait bool, started *atomic.Bool, result func(bool)) {
	period := time.Duration(max(p.PeriodSeconds, 1)) * time.Second
	pause := time.Until(began.Add(time.Duration(p.InitialDelaySeconds) * time.Second))
	good, bad := 0, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(pause, 0)):
		}
		pause = period
		if wait && !started.Load() {
			pause = min(period, 100*time.Millisecond) // soon after the startup probe succeeds
			continue
		}
		err := t.ask(ctx, p)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, shim.ErrNewer) { // nobody was asked: no reason to end what may be well
			t.w.deps.API.Event(t.pod, t.c.Name, corev1.EventTypeWarning, "Unhealthy", kind+" probe errored and resulted in unknown state: "+err.Error())
			continue
		}
		if err == nil {
			good, bad = good+1, 0
		} else {
			good, bad = 0, bad+1
			t.w.deps.API.Event(t.pod, t.c.Name, corev1.EventTypeWarning, "Unhealthy", kind+" probe failed: "+err.Error())
		}
		if good >= int(max(p.SuccessThreshold, 1)) {
			result(true)
			if kind == "Startup" {
				return
			}
		}
		if bad >= int(max(p.FailureThreshold, 1)) {
			result(false)
			if kind != "Readiness" {
				return
			}
		}
	}
}

func (t *target) ask(ctx context.Context, p *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(max(p.TimeoutSeconds, 1))*time.Second)
	defer cancel()
	switch {
	case p.HTTPGet != nil:
		return t.askHTTP(ctx, p.HTTPGet)
	case p.TCPSocket != nil:
		port, err := t.port(p.TCPSocket.Port)
		if err != nil {
			return err
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(orHost(p.TCPSocket.Host, t.host), port))
		if err != nil {
			return err
		}
		return conn.Close()
	case p.Exec != nil:
		return t.askExec(ctx, p.Exec.Command)
	case p.GRPC != nil:
		return t.askGRPC(ctx, p.GRPC)
	}
	return errors.New("invalid probe: it names neither exec, nor httpGet, nor tcpSocket, nor grpc")
}

func orHost(host, otherwise string) string {
	if host != "" {
		return host
	}
	return otherwise
}

func (t *target) port(p intstr.IntOrString) (string, error) {
	if p.Type == intstr.Int {
		return strconv.Itoa(p.IntValue()), nil
	}
	for _, cp := range t.c.Ports {
		if cp.Name == p.StrVal {
			return strconv.Itoa(int(cp.ContainerPort)), nil
		}
	}
	if n, err := strconv.Atoi(p.StrVal); err == nil {
		return strconv.Itoa(n), nil
	}
	return "", fmt.Errorf("couldn't find port %q in container %s", p.StrVal, t.c.Name)
}

func (t *target) askHTTP(ctx context.Context, h *corev1.HTTPGetAction) error {
	resp, err := t.getHTTP(ctx, h, "kube-probe/1.37")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 10<<10))
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("HTTP probe failed with statuscode: %d", resp.StatusCode)
	}
	return nil
}

// getHTTP asks what an action says.
func (t *target) getHTTP(ctx context.Context, h *corev1.HTTPGetAction, agent string) (*http.Response, error) {
	port, err := t.port(h.Port)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(h.Path)
	if err != nil {
		u = &url.URL{Path: h.Path}
	}
	u.Scheme, u.Host = strings.ToLower(string(h.Scheme)), net.JoinHostPort(orHost(h.Host, t.host), port)
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", agent)
	req.Header.Set("Accept", "*/*")
	for _, kv := range h.HTTPHeaders {
		if strings.EqualFold(kv.Name, "Host") {
			req.Host = kv.Value
		} else {
			req.Header.Set(kv.Name, kv.Value)
		}
	}
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, // a probe asks whether it lives, not who it is
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Hostname() != u.Hostname() || len(via) >= 10 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	return client.Do(req)
}

// askExec runs a command in the container; its output is the failure's message.
func (t *target) askExec(ctx context.Context, command []string) error {
	spec := t.exec
	spec.Args = command
	exit, out, err := t.w.deps.Shim.ExecSync(ctx, t.id, spec, 10<<10)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("command timed out: %q", strings.Join(command, " "))
	case err != nil:
		return err
	case exit.Code == 0:
		return nil
	}
	if msg := strings.TrimSpace(string(out)); msg != "" {
		return errors.New(msg)
	}
	return fmt.Errorf("command exited with code %d", exit.Code)
}
