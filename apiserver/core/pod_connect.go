package core

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericfilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/registry/rest"
	translator "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"kontiki/apiserver/kind"
)

// connectREST carries a connection to a pod (exec, attach, port-forward) to the
// agent of its node. The agent speaks SPDY; WebSockets of a client are
// translated or tunnelled here, as a kube-apiserver does.
type connectREST struct {
	pods      *kind.REST
	agents    AgentTransport
	authorize authorizer.Authorizer // may be nil
	options   func() runtime.Object
	// target is the agent's path and query, and which streams are wanted.
	target func(pod *corev1.Pod, options runtime.Object) (url.URL, *translator.Options, error)
}

var _ rest.Connecter = &connectREST{}

// New implements rest.Storage.
func (r *connectREST) New() runtime.Object { return r.options() }

// Destroy implements rest.Storage.
func (*connectREST) Destroy() {}

// ConnectMethods implements rest.Connecter.
func (*connectREST) ConnectMethods() []string { return []string{http.MethodGet, http.MethodPost} }

// NewConnectOptions implements rest.Connecter.
func (r *connectREST) NewConnectOptions() (runtime.Object, bool, string) {
	return r.options(), false, ""
}

// Connect implements rest.Connecter.
func (r *connectREST) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	if err := r.mayCreate(ctx, name); err != nil {
		return nil, err
	}
	obj, err := r.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	pod := obj.(*corev1.Pod)
	target, streams, err := r.target(pod, options)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", name))
	}
	if r.agents == nil {
		return nil, apierrors.NewServiceUnavailable("this API server has no way to the agents of nodes")
	}
	base, transport, err := r.agents.Agent(ctx, pod.Spec.NodeName)
	if err != nil {
		return nil, unreachable(pod.Spec.NodeName, err)
	}
	target.Scheme, target.Host = base.Scheme, base.Host
	line, err := dialAgent(ctx, &target, transport)
	if err != nil {
		return nil, unreachable(pod.Spec.NodeName, err)
	}
	transport = line
	errorsTo := proxy.NewErrorResponder(agentResponder{responder, pod.Spec.NodeName})
	direct := proxy.NewUpgradeAwareHandler(&target, transport, false, true, errorsTo)
	if streams == nil {
		return line.over(translator.NewTranslatingHandler(direct, translator.NewTunnelingHandler(direct), wsstream.IsWebSocketRequestWithTunnelingProtocol)), nil
	}
	translated := translator.NewStreamTranslatorHandler(&target, transport, 0, *streams)
	return line.over(translator.NewTranslatingHandler(direct, translated, wsstream.IsWebSocketRequestWithStreamCloseProtocol)), nil
}

// agentLine is a connection to an agent that was made before the client's is
// upgraded: once it is, a node out of reach could not be told as a status.
type agentLine struct {
	*http.Transport
	conn atomic.Pointer[net.Conn] // nil once it is in use
}

func dialAgent(ctx context.Context, target *url.URL, transport http.RoundTripper) (*agentLine, error) {
	conn, err := proxy.DialURL(ctx, target, transport)
	if err != nil {
		return nil, err
	}
	l := &agentLine{}
	l.conn.Store(&conn)
	l.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		if conn := l.conn.Swap(nil); conn != nil {
			return *conn, nil
		}
		return nil, errors.New("the connection to the agent is in use")
	}}
	return l, nil
}

// WrappedRoundTripper lets the library find the dialer.
func (l *agentLine) WrappedRoundTripper() http.RoundTripper { return l.Transport }

// over serves h with the connection and closes it if it was not used. The
// library logs every client that hangs up as an error; what matters is told to the client.
func (l *agentLine) over(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if conn := l.conn.Swap(nil); conn != nil {
				(*conn).Close()
			}
		}()
		h.ServeHTTP(w, r.WithContext(logr.NewContext(r.Context(), logr.Discard())))
	})
}

// mayCreate asks for the verb "create" also where a WebSocket began as a GET:
// otherwise whoever may only read could run commands.
func (r *connectREST) mayCreate(ctx context.Context, name string) error {
	attrs, err := genericfilters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if r.authorize == nil || attrs.GetVerb() == "create" {
		return nil
	}
	record := authorizer.AttributesRecord{
		User: attrs.GetUser(), Verb: "create", Namespace: attrs.GetNamespace(), APIGroup: attrs.GetAPIGroup(), APIVersion: attrs.GetAPIVersion(),
		Resource: attrs.GetResource(), Subresource: attrs.GetSubresource(), Name: attrs.GetName(), ResourceRequest: true, Path: attrs.GetPath(),
	}
	decision, reason, err := r.authorize.Authorize(ctx, record)
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	return apierrors.NewForbidden(corev1.Resource("pods/"+attrs.GetSubresource()), name, fmt.Errorf("a WebSocket needs the verb create here: %s", reason))
}

func unreachable(node string, err error) *apierrors.StatusError {
	return apierrors.NewServiceUnavailable(fmt.Sprintf("the agent of node %q is not in reach: %v", node, err))
}

// agentResponder tells what went wrong on the way to an agent.
type agentResponder struct {
	rest.Responder
	node string
}

// Error says 503 for what has no status of its own.
func (r agentResponder) Error(err error) {
	if _, ok := err.(apierrors.APIStatus); !ok {
		err = unreachable(r.node, err)
	}
	r.Responder.Error(err)
}

func execTarget(pod *corev1.Pod, options runtime.Object) (url.URL, *translator.Options, error) {
	o, ok := options.(*corev1.PodExecOptions)
	if !ok {
		return url.URL{}, nil, fmt.Errorf("invalid options object: %#v", options)
	}
	if len(o.Command) == 0 {
		return url.URL{}, nil, apierrors.NewBadRequest("you must specify at least one command for the container")
	}
	u, streams, err := streamTarget("/exec", pod, o.Container, translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY})
	q := u.Query()
	q["command"] = o.Command
	u.RawQuery = q.Encode()
	return u, streams, err
}

func attachTarget(pod *corev1.Pod, options runtime.Object) (url.URL, *translator.Options, error) {
	o, ok := options.(*corev1.PodAttachOptions)
	if !ok {
		return url.URL{}, nil, fmt.Errorf("invalid options object: %#v", options)
	}
	return streamTarget("/attach", pod, o.Container, translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY})
}

// streamTarget is a kubelet's URL for the streams of a container.
func streamTarget(verb string, pod *corev1.Pod, container string, streams translator.Options) (url.URL, *translator.Options, error) {
	container, err := logContainer(pod, container)
	if err != nil {
		return url.URL{}, nil, err
	}
	if streams.Tty {
		streams.Stderr = false // a terminal has one output
	}
	if !streams.Stdin && !streams.Stdout && !streams.Stderr {
		return url.URL{}, nil, apierrors.NewBadRequest("you must specify at least one of stdin, stdout, stderr")
	}
	q := url.Values{}
	for name, on := range map[string]bool{"input": streams.Stdin, "output": streams.Stdout, "error": streams.Stderr, "tty": streams.Tty} {
		if on {
			q.Set(name, "1")
		}
	}
	return url.URL{Path: fmt.Sprintf("%s/%s/%s/%s", verb, pod.Namespace, pod.Name, container), RawQuery: q.Encode()}, &streams, nil
}

func forwardTarget(pod *corev1.Pod, options runtime.Object) (url.URL, *translator.Options, error) {
	o, ok := options.(*corev1.PodPortForwardOptions)
	if !ok {
		return url.URL{}, nil, fmt.Errorf("invalid options object: %#v", options)
	}
	q := url.Values{}
	for _, port := range o.Ports {
		q.Add("port", strconv.Itoa(int(port)))
	}
	return url.URL{Path: fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), RawQuery: q.Encode()}, nil, nil
}

// connectStorages are the subresources that lead into a running pod.
func connectStorages(pods *kind.REST, agents AgentTransport, authorize authorizer.Authorizer) kind.Storages {
	return kind.Storages{
		"pods/exec":        &connectREST{pods, agents, authorize, func() runtime.Object { return &corev1.PodExecOptions{} }, execTarget},
		"pods/attach":      &connectREST{pods, agents, authorize, func() runtime.Object { return &corev1.PodAttachOptions{} }, attachTarget},
		"pods/portforward": &connectREST{pods, agents, authorize, func() runtime.Object { return &corev1.PodPortForwardOptions{} }, forwardTarget},
	}
}

// queryFlag reads a boolean of a URL's query as upstream does: present is true
// unless it says otherwise.
func queryFlag(q url.Values, name string) bool {
	v, ok := q[name]
	return ok && (len(v) == 0 || (v[0] != "false" && v[0] != "0"))
}

func execOptionsFrom(q url.Values, o *corev1.PodExecOptions) {
	o.Stdin, o.Stdout, o.Stderr, o.TTY = queryFlag(q, "stdin"), queryFlag(q, "stdout"), queryFlag(q, "stderr"), queryFlag(q, "tty")
	o.Container, o.Command = q.Get("container"), q["command"]
}

func attachOptionsFrom(q url.Values, o *corev1.PodAttachOptions) {
	o.Stdin, o.Stdout, o.Stderr, o.TTY = queryFlag(q, "stdin"), queryFlag(q, "stdout"), queryFlag(q, "stderr"), queryFlag(q, "tty")
	o.Container = q.Get("container")
}

func forwardOptionsFrom(q url.Values, o *corev1.PodPortForwardOptions) error {
	for _, v := range q["ports"] {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("ports: %q is not a port", v)
		}
		o.Ports = append(o.Ports, int32(n))
	}
	return nil
}
