package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"kontiki/runtime/pod"
)

const (
	streamIdle     = 4 * time.Hour // upstream's default; a stream without a byte in it is given up then
	streamCreation = 30 * time.Second
	targetPatience = 10 * time.Second // how long a pod's worker may be busy with something else
)

// find returns a pod of this node by name, with its worker.
func (a *Agent) find(namespace, name string) (*running, *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var best *running
	var pod *corev1.Pod
	for _, r := range a.pods {
		if p, _ := r.poster.current(); p.Namespace == namespace && p.Name == name && (pod == nil || p.DeletionTimestamp == nil) {
			best, pod = r, p
		}
	}
	if best == nil {
		return nil, nil
	}
	return best, best.poster.snapshot()
}

// begin is called by whoever serves a stream: the context ends when the agent
// stops, which waits for done.
func (a *Agent) begin(r *http.Request) (ctx context.Context, done func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		return nil, nil, errors.New("the agent is stopping")
	}
	ctx, cancel := context.WithCancel(r.Context())
	stop := make(chan struct{})
	a.streams.Go(func() {
		select {
		case <-a.stopping:
		case <-stop:
		}
		cancel()
		<-stop
	})
	return ctx, func() { close(stop) }, nil
}

// target finds the running container of a request, or has answered it.
func (a *Agent) target(ctx context.Context, w http.ResponseWriter, r *http.Request) (pod.Target, *corev1.Pod, bool) {
	run, p := a.find(r.PathValue("namespace"), r.PathValue("pod"))
	container := r.PathValue("container")
	if p == nil {
		http.Error(w, fmt.Sprintf("pod %q does not exist on this node", r.PathValue("pod")), http.StatusNotFound)
		return pod.Target{}, nil, false
	}
	ctx, cancel := context.WithTimeout(ctx, targetPatience)
	defer cancel()
	t, err := run.worker.Target(ctx, container)
	if err != nil {
		code := http.StatusInternalServerError
		if errors.Is(err, pod.ErrNotRunning) {
			code = http.StatusNotFound
		}
		http.Error(w, err.Error(), code)
		return pod.Target{}, nil, false
	}
	return t, p, true
}

func (a *Agent) serveExec(w http.ResponseWriter, r *http.Request) {
	ctx, done, err := a.begin(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer done()
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	t, p, ok := a.target(ctx, w, r)
	if !ok {
		return
	}
	remotecommand.ServeExec(w, r.WithContext(ctx), executor{a, t}, p.Name, string(p.UID), r.PathValue("container"), r.Form["command"], opts, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

func (a *Agent) serveAttach(w http.ResponseWriter, r *http.Request) {
	ctx, done, err := a.begin(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer done()
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	t, p, ok := a.target(ctx, w, r)
	if !ok {
		return
	}
	remotecommand.ServeAttach(w, r.WithContext(ctx), attacher{a, t}, p.Name, string(p.UID), r.PathValue("container"), opts, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

func (a *Agent) servePortForward(w http.ResponseWriter, r *http.Request) {
	ctx, done, err := a.begin(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer done()
	run, p := a.find(r.PathValue("namespace"), r.PathValue("pod"))
	if p == nil {
		http.Error(w, fmt.Sprintf("pod %q does not exist on this node", r.PathValue("pod")), http.StatusNotFound)
		return
	}
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r.WithContext(ctx), forwarder{run.worker}, p.Name, string(p.UID), opts, streamIdle, streamCreation, portforward.SupportedProtocols)
}
