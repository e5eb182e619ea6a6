package core

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"

	"kontiki/apiserver/kind"
)

// AgentTransport leads to the agents of nodes.
type AgentTransport interface {
	// Agent returns where the agent of a node is and what carries requests there.
	// The path of base is empty; the agent answers in the kubelet's URL shapes.
	Agent(ctx context.Context, nodeName string) (base *url.URL, transport http.RoundTripper, err error)
}

// logREST streams what a container has written, from the agent of its node.
type logREST struct {
	pods   *kind.REST
	agents AgentTransport
}

var (
	_ rest.GetterWithOptions = &logREST{}
	_ rest.StorageMetadata   = &logREST{}
)

// New implements rest.Storage.
func (*logREST) New() runtime.Object { return &corev1.Pod{} }

// Destroy implements rest.Storage.
func (*logREST) Destroy() {}

// ProducesMIMETypes implements rest.StorageMetadata.
func (*logREST) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

// ProducesObject implements rest.StorageMetadata.
func (*logREST) ProducesObject(string) any { return "" }

// NewGetOptions implements rest.GetterWithOptions.
func (*logREST) NewGetOptions() (runtime.Object, bool, string) {
	return &corev1.PodLogOptions{}, false, ""
}

// OverrideMetricsVerb implements rest.MetricsVerbProvider: following takes long.
func (*logREST) OverrideMetricsVerb(verb string) string {
	if verb == "GET" {
		return "CONNECT"
	}
	return verb
}

// Get implements rest.GetterWithOptions.
func (r *logREST) Get(ctx context.Context, name string, options runtime.Object) (runtime.Object, error) {
	opts, ok := options.(*corev1.PodLogOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", options)
	}
	if errs := validateLogOptions(opts); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), name, errs)
	}
	obj, err := r.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	pod := obj.(*corev1.Pod)
	container, err := logContainer(pod, opts.Container)
	if err != nil {
		return nil, err
	}
	stream := &genericrest.LocationStreamer{
		ContentType:     "text/plain",
		Flush:           opts.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(corev1.Resource("pods/log"), name),
		RedirectChecker: genericrest.PreventRedirects,
	}
	if pod.Spec.NodeName == "" {
		return stream, nil // nothing runs yet: an empty log
	}
	if r.agents == nil {
		return nil, apierrors.NewServiceUnavailable("this API server has no way to the agents of nodes")
	}
	base, transport, err := r.agents.Agent(ctx, pod.Spec.NodeName)
	if err != nil {
		return nil, unreachable(pod.Spec.NodeName, err)
	}
	location := *base
	location.Path = fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container)
	location.RawQuery = logQuery(opts).Encode()
	stream.Location, stream.Transport = &location, transport
	return stream, nil
}

// logContainer returns the container whose log is meant.
func logContainer(p *corev1.Pod, name string) (string, error) {
	var containers, inits []string
	for _, c := range p.Spec.Containers {
		containers = append(containers, c.Name)
	}
	for _, c := range p.Spec.InitContainers {
		inits = append(inits, c.Name)
	}
	known := append(slices.Clone(containers), inits...)
	for _, c := range p.Spec.EphemeralContainers {
		known = append(known, c.Name)
	}
	if name != "" {
		if !slices.Contains(known, name) {
			return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, p.Name))
		}
		return name, nil
	}
	switch len(containers) {
	case 1:
		return containers[0], nil
	case 0:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", p.Name))
	}
	msg := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", p.Name, strings.Join(containers, " "))
	if len(inits) > 0 {
		msg += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(inits, " "))
	}
	return "", apierrors.NewBadRequest(msg)
}

func validateLogOptions(o *corev1.PodLogOptions) field.ErrorList {
	var errs field.ErrorList
	if o.TailLines != nil {
		errs = append(errs, nonNegative(*o.TailLines, field.NewPath("tailLines"))...)
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	return errs
}

// logQuery is the request to the agent, as a kubelet would get it.
func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	set := func(name string, on bool) {
		if on {
			q.Set(name, "true")
		}
	}
	number := func(name string, n *int64) {
		if n != nil {
			q.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	set("follow", o.Follow)
	set("previous", o.Previous)
	set("timestamps", o.Timestamps)
	number("sinceSeconds", o.SinceSeconds)
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	number("tailLines", o.TailLines)
	number("limitBytes", o.LimitBytes)
	if o.Stream != nil && *o.Stream != corev1.LogStreamAll {
		q.Set("stream", *o.Stream)
	}
	return q
}

// addQueries registers how options come out of a URL's query; k8s.io/api does
// not know.
func addQueries(scheme *runtime.Scheme) error {
	values := (*url.Values)(nil)
	return errors.Join(
		scheme.AddConversionFunc(values, (*corev1.PodLogOptions)(nil), func(in, out any, _ conversion.Scope) error {
			return logOptionsFrom(*in.(*url.Values), out.(*corev1.PodLogOptions))
		}),
		scheme.AddConversionFunc(values, (*corev1.PodExecOptions)(nil), func(in, out any, _ conversion.Scope) error {
			execOptionsFrom(*in.(*url.Values), out.(*corev1.PodExecOptions))
			return nil
		}),
		scheme.AddConversionFunc(values, (*corev1.PodAttachOptions)(nil), func(in, out any, _ conversion.Scope) error {
			attachOptionsFrom(*in.(*url.Values), out.(*corev1.PodAttachOptions))
			return nil
		}),
		scheme.AddConversionFunc(values, (*corev1.PodProxyOptions)(nil), func(in, out any, _ conversion.Scope) error {
			out.(*corev1.PodProxyOptions).Path = in.(*url.Values).Get("path")
			return nil
		}),
		scheme.AddConversionFunc(values, (*corev1.NodeProxyOptions)(nil), func(in, out any, _ conversion.Scope) error {
			out.(*corev1.NodeProxyOptions).Path = in.(*url.Values).Get("path")
			return nil
		}),
		scheme.AddConversionFunc(values, (*corev1.ServiceProxyOptions)(nil), func(in, out any, _ conversion.Scope) error {
			out.(*corev1.ServiceProxyOptions).Path = in.(*url.Values).Get("path")
			return nil
		}),
		scheme.AddConversionFunc(values, (*corev1.PodPortForwardOptions)(nil), func(in, out any, _ conversion.Scope) error {
			return forwardOptionsFrom(*in.(*url.Values), out.(*corev1.PodPortForwardOptions))
		}),
	)
}

func logOptionsFrom(q url.Values, o *corev1.PodLogOptions) error {
	flag := func(name string, to *bool) { *to = queryFlag(q, name) }
	number := func(name string, to **int64) error {
		if v := q.Get(name); v != "" {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return err
			}
			*to = &n
		}
		return nil
	}
	o.Container = q.Get("container")
	flag("follow", &o.Follow)
	flag("previous", &o.Previous)
	flag("timestamps", &o.Timestamps)
	flag("insecureSkipTLSVerifyBackend", &o.InsecureSkipTLSVerifyBackend)
	for name, to := range map[string]**int64{"sinceSeconds": &o.SinceSeconds, "tailLines": &o.TailLines, "limitBytes": &o.LimitBytes} {
		if err := number(name, to); err != nil {
			return err
		}
	}
	if v := q.Get("sinceTime"); v != "" {
		t := metav1.Time{}
		if err := t.UnmarshalQueryParameter(v); err != nil {
			return err
		}
		o.SinceTime = &t
	}
	if v := q.Get("stream"); v != "" {
		o.Stream = &v
	} else {
		o.Stream = ptr(corev1.LogStreamAll)
	}
	return nil
}
