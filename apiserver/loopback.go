package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"

	"kontiki/apiserver/storage"
)

// userKey is the context key of the user of a request from inside the process.
// net/http makes a new context for every connection, so no request that came
// over the network can carry it.
type userKey struct{}

func userFrom(ctx context.Context) (user.Info, bool) {
	u, ok := ctx.Value(userKey{}).(user.Info)
	return u, ok
}

// ClientOption changes what an in-memory client sends along.
type ClientOption func(*memoryTransport)

// WithTerm fences a client: its writes happen only while the Raft term is term,
// and are refused for good afterwards (storage.IsFenced).
func WithTerm(term uint64) ClientOption {
	return func(t *memoryTransport) { t.term = term }
}

// Client returns the configuration of a client that speaks to this server in
// memory as u. Requests pass authorization and admission like any other. QPS is
// unlimited, because the server is.
func (s *Server) Client(u user.Info, opts ...ClientOption) *rest.Config {
	t := &memoryTransport{handler: &s.handler, user: u}
	for _, opt := range opts {
		opt(t)
	}
	return &rest.Config{
		Host:      "http://kontiki.invalid",
		Transport: t,
		QPS:       -1,
		ContentConfig: rest.ContentConfig{
			ContentType:        runtime.ContentTypeProtobuf,
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
		},
		UserAgent: "kontiki/" + u.GetName(),
	}
}

// memoryTransport is an http.RoundTripper that calls a handler in this process.
type memoryTransport struct {
	handler *atomic.Pointer[http.Handler]
	user    user.Info
	term    uint64
}

// errNotServing is what clients treat as a server that is not up yet.
var errNotServing = fmt.Errorf("the API server of this node is starting: %w", syscall.ECONNREFUSED)

// RoundTrip implements http.RoundTripper. It returns when the handler has sent
// its headers; the body streams.
func (t *memoryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	handler := t.handler.Load()
	if handler == nil {
		return nil, errNotServing
	}
	// A request that is made while another is served is one of its own: it ends with
	// the other, but shares neither its user nor its audit record nor its term.
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), userKey{}, t.user))
	stop := context.AfterFunc(req.Context(), cancel)
	if t.term != 0 {
		ctx = storage.WithTerm(ctx, t.term)
	}
	if tap := storage.TapFrom(req.Context()); tap != nil {
		ctx = storage.WithTap(ctx, tap)
	}
	in := req.Clone(ctx)
	fromReplica(in)
	in.RequestURI = in.URL.RequestURI()
	in.RemoteAddr = "127.0.0.1:0"
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/2.0", 2, 0
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := &memoryResponse{header: http.Header{}, sent: make(chan struct{}), pipe: newPipe(), ctx: ctx}
	go func() {
		defer cancel()
		defer stop()
		defer in.Body.Close()
		defer func() {
			var err error = io.EOF
			if p := recover(); p != nil {
				err = fmt.Errorf("the handler of %s %s has panicked: %v", in.Method, in.URL.Path, p)
				if p != http.ErrAbortHandler {
					err = fmt.Errorf("%w\n%s", err, debug.Stack())
				}
				w.fail(err)
			}
			w.WriteHeader(http.StatusOK)
			w.pipe.closeWrite(err)
		}()
		(*handler).ServeHTTP(w, in)
	}()
	select {
	case <-w.sent:
	case <-req.Context().Done():
		cancel()
		w.pipe.closeRead()
		return nil, req.Context().Err()
	}
	if w.err != nil {
		return nil, w.err
	}
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status,
		Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: w.snapshot, ContentLength: -1, Request: req,
		Body: &memoryBody{pipe: w.pipe, cancel: cancel, ctx: req.Context()},
	}, nil
}

// fromReplica lets a component that starts to watch, and asks for all objects
// first, begin with what this node's replica holds instead of the latest state:
// it becomes ready without a quorum, and hears of the rest as it arrives. A
// replica never goes back, so that nobody sees what is older than he has seen.
func fromReplica(req *http.Request) {
	if req.Method != http.MethodGet || !strings.Contains(req.URL.RawQuery, "sendInitialEvents=true") {
		return
	}
	query := req.URL.Query()
	if query.Get("watch") == "true" && query.Get("sendInitialEvents") == "true" && query.Get("resourceVersion") == "" {
		query.Set("resourceVersion", "0")
		req.URL.RawQuery = query.Encode()
	}
}

// memoryResponse is the http.ResponseWriter of one request.
type memoryResponse struct {
	header http.Header
	pipe   *pipe
	ctx    context.Context // of the one request that this lives for

	once     sync.Once
	status   int         // these three are written once, before sent is closed
	snapshot http.Header // headers may no longer change once they are sent
	err      error
	sent     chan struct{}
}

// Header implements http.ResponseWriter.
func (w *memoryResponse) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *memoryResponse) WriteHeader(status int) {
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	w.once.Do(func() {
		w.status, w.snapshot = status, w.header.Clone()
		close(w.sent)
	})
}

func (w *memoryResponse) fail(err error) {
	w.once.Do(func() {
		w.err = err
		close(w.sent)
	})
}

// Write implements http.ResponseWriter.
func (w *memoryResponse) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.pipe.write(p)
}

// Flush implements http.Flusher: it sends the headers; bytes are never held back.
func (w *memoryResponse) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify implements http.CloseNotifier, which the library still asks for.
func (w *memoryResponse) CloseNotify() <-chan bool {
	c := make(chan bool, 1)
	go func() {
		<-w.ctx.Done()
		c <- true
	}()
	return c
}

type memoryBody struct {
	pipe   *pipe
	cancel context.CancelFunc
	ctx    context.Context // of the request, to tell a cancelled read from an end
}

// Read implements io.Reader.
func (b *memoryBody) Read(p []byte) (int, error) {
	n, err := b.pipe.read(b.ctx, p)
	if errors.Is(err, io.EOF) && b.ctx.Err() != nil {
		err = b.ctx.Err()
	}
	return n, err
}

// Close implements io.Closer; it ends the handler.
func (b *memoryBody) Close() error {
	b.cancel()
	b.pipe.closeRead()
	return nil
}
