package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/runtime/logs"
	"kontiki/runtime/pod"
)

// Handler serves the agent's endpoint in kubelet's URL shapes. Who may call it
// is decided before it: the port lets in members of the cluster alone, and their API
// servers ask RBAC about each user's request (pods/log, pods/exec, nodes/proxy).
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", a.serveHealth)
	mux.HandleFunc("GET /stats/summary", a.serveSummary)
	mux.Handle("GET /metrics", serveMetrics(a.metrics.own))
	mux.Handle("GET /metrics/resource", serveMetrics(a.metrics.resources))
	mux.HandleFunc("GET /pods", a.servePods)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.serveLogs)
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", a.serveExec)
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", a.serveAttach)
	mux.HandleFunc("/portForward/{namespace}/{pod}", a.servePortForward)
	return mux
}

// healthPatience is how long the shim may take to say that it lives.
const healthPatience = 5 * time.Second

// serveHealth says "ok" when the agent has begun its pods and the shim answers.
func (a *Agent) serveHealth(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthPatience)
	defer cancel()
	var err error
	if a.mu.Lock(); !a.resumed {
		err = errors.New("the agent has not taken up its pods yet")
	}
	a.mu.Unlock()
	if err == nil {
		_, err = a.cfg.Shim.Info(ctx)
	}
	if err != nil {
		http.Error(w, "healthz check failed: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write([]byte("ok"))
}

func (a *Agent) snapshots() []*corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]*corev1.Pod, 0, len(a.pods))
	for _, r := range a.pods {
		list = append(list, r.poster.snapshot())
	}
	slices.SortFunc(list, func(x, y *corev1.Pod) int {
		return strings.Compare(x.Namespace+"/"+x.Name+"/"+string(x.UID), y.Namespace+"/"+y.Name+"/"+string(y.UID))
	})
	return list
}

func (a *Agent) servePods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, p := range a.snapshots() {
		list.Items = append(list.Items, *p)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list)
}

// logTarget is whose log a request wants.
type logTarget struct {
	uid, container string
	attempt        int
}

func (a *Agent) serveLogs(w http.ResponseWriter, r *http.Request) {
	ns, name, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	opts, previous, err := logOptions(r, time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, p := a.find(ns, name)
	if p == nil {
		http.Error(w, fmt.Sprintf("pod %q does not exist", name), http.StatusNotFound)
		return
	}
	t, err := chooseLog(p, container, previous)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	path := pod.LogPath(a.podsDir, t.uid, t.container, t.attempt)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && !opts.Follow {
		return // it has said nothing yet, or its words are gone
	}
	w.Header().Set("Content-Type", "text/plain")
	out := &flusher{w: w}
	if err := logs.Read(r.Context(), path, opts, func() bool { return a.stillRuns(t) }, out); err != nil && !out.began && !errors.Is(err, os.ErrNotExist) {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// flusher lets a follower's words out at once.
type flusher struct {
	w     http.ResponseWriter
	began bool
}

func (f *flusher) Write(b []byte) (int, error) {
	f.began = true
	return f.w.Write(b)
}

func (f *flusher) Flush() {
	if fl, ok := f.w.(http.Flusher); ok {
		fl.Flush()
	}
}

// stillRuns: this attempt's log may grow.
func (a *Agent) stillRuns(t logTarget) bool {
	r := a.running(t.uid)
	if r == nil {
		return false
	}
	s := findStatus(&r.poster.snapshot().Status, t.container)
	return s != nil && int(s.RestartCount) == t.attempt && s.State.Running != nil
}

func findStatus(st *corev1.PodStatus, container string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{st.ContainerStatuses, st.InitContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == container {
				return &list[i]
			}
		}
	}
	return nil
}

// chooseLog finds the attempt that is meant, refusing in upstream's words.
func chooseLog(p *corev1.Pod, container string, previous bool) (logTarget, error) {
	t := logTarget{uid: string(p.UID), container: container}
	s := findStatus(&p.Status, container)
	if s == nil {
		return t, fmt.Errorf("container %q is not valid for pod %q", container, p.Name)
	}
	t.attempt = int(s.RestartCount)
	backoff := s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff" // the attempt that ended is the last one
	switch {
	case previous:
		if s.LastTerminationState.Terminated == nil {
			return t, fmt.Errorf("previous terminated container %q in pod %q not found", container, p.Name)
		}
		if !backoff {
			t.attempt--
		}
	case s.State.Waiting != nil && !backoff:
		if s.LastTerminationState.Terminated == nil {
			return t, fmt.Errorf("container %q in pod %q is waiting to start: %s", container, p.Name, orReason(s.State.Waiting))
		}
		t.attempt--
	}
	return t, nil
}

func orReason(w *corev1.ContainerStateWaiting) string {
	switch w.Reason {
	case "ErrImagePull", "ErrImageNeverPull":
		return "image can't be pulled"
	case "ImagePullBackOff":
		return "trying and failing to pull image"
	}
	return w.Reason
}

// logOptions reads PodLogOptions from a query.
func logOptions(r *http.Request, now time.Time) (opts logs.Options, previous bool, err error) {
	q := r.URL.Query()
	opts.Tail = -1
	boolean := func(key string, into *bool) {
		if v := q.Get(key); v != "" && err == nil {
			if *into, err = strconv.ParseBool(v); err != nil {
				err = fmt.Errorf("query parameter %s: %q is not a boolean", key, v)
			}
		}
	}
	number := func(key string, least int64, into *int64) bool {
		v := q.Get(key)
		if v == "" || err != nil {
			return false
		}
		if *into, err = strconv.ParseInt(v, 10, 64); err != nil || *into < least {
			err = fmt.Errorf("query parameter %s: %q is not a number of at least %d", key, v, least)
		}
		return err == nil
	}
	boolean("follow", &opts.Follow)
	boolean("previous", &previous)
	boolean("timestamps", &opts.Timestamps)
	number("tailLines", 0, &opts.Tail)
	number("limitBytes", 1, &opts.LimitBytes)
	var seconds int64
	if number("sinceSeconds", 1, &seconds) {
		opts.Since = now.Add(-time.Duration(seconds) * time.Second)
	}
	if v := q.Get("sinceTime"); v != "" && err == nil {
		if opts.Since, err = time.Parse(time.RFC3339Nano, v); err != nil {
			err = fmt.Errorf("query parameter sinceTime: %q is not a time like 2006-01-02T15:04:05Z", v)
		}
	}
	switch s := q.Get("stream"); s {
	case "", "All":
	case "Stdout", "Stderr":
		opts.Stream = strings.ToLower(s)
	default:
		err = errors.Join(err, fmt.Errorf("query parameter stream: %q is none of All, Stdout, Stderr", s))
	}
	return opts, previous, err
}
