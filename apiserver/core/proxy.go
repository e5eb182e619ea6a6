package core

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	serviceproxy "k8s.io/apiserver/pkg/util/proxy"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"

	"kontiki/apiserver/kind"
)

// proxyREST carries HTTP requests to what an object stands for: a pod, one of the
// pods behind a Service, or a node's agent. The name may carry a scheme and a port,
// as scheme:name:port.
type proxyREST struct {
	options func() runtime.Object
	path    func(options runtime.Object) string
	// locate is where requests go, and over what.
	locate func(ctx context.Context, id string) (*url.URL, http.RoundTripper, error)
}

var _ rest.Connecter = &proxyREST{}

// New implements rest.Storage.
func (r *proxyREST) New() runtime.Object { return r.options() }

// Destroy implements rest.Storage.
func (*proxyREST) Destroy() {}

// ConnectMethods implements rest.Connecter.
func (*proxyREST) ConnectMethods() []string {
	return []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions}
}

// NewConnectOptions implements rest.Connecter: the rest of the URL is the path.
func (r *proxyREST) NewConnectOptions() (runtime.Object, bool, string) {
	return r.options(), true, "path"
}

// Connect implements rest.Connecter.
func (r *proxyREST) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	to, transport, err := r.locate(ctx, id)
	if err != nil {
		return nil, err
	}
	to.Path = utilnet.JoinPreservingTrailingSlash(to.Path, r.path(options))
	return proxy.NewUpgradeAwareHandler(to, transport, true, false, proxy.NewErrorResponder(responder)), nil
}

// anyCertificate reaches pods and nodes, who have certificates of their own or none.
var anyCertificate = utilnet.SetTransportDefaults(&http.Transport{
	Proxy:           func(*http.Request) (*url.URL, error) { return nil, nil },
	TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as upstream: whose certificate it would be is not known
})

func podProxy(pods *kind.REST) rest.Storage {
	return &proxyREST{
		options: func() runtime.Object { return &corev1.PodProxyOptions{} },
		path:    func(o runtime.Object) string { return o.(*corev1.PodProxyOptions).Path },
		locate: func(ctx context.Context, id string) (*url.URL, http.RoundTripper, error) {
			scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
			if !ok {
				return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
			}
			obj, err := pods.Get(ctx, name, &metav1.GetOptions{})
			if err != nil {
				return nil, nil, err
			}
			pod := obj.(*corev1.Pod)
			if port == "" {
				port = firstPort(pod)
			}
			ip, ok := reachable(pod.Status.PodIP)
			if !ok {
				return nil, nil, apierrors.NewBadRequest("address not allowed")
			}
			host := ip.String()
			if port != "" {
				host = net.JoinHostPort(host, port)
			} else if ip.Is6() {
				host = "[" + host + "]"
			}
			return &url.URL{Scheme: scheme, Host: host}, anyCertificate, nil
		},
	}
}

func firstPort(pod *corev1.Pod) string {
	for _, c := range pod.Spec.Containers {
		if len(c.Ports) > 0 {
			return strconv.Itoa(int(c.Ports[0].ContainerPort))
		}
	}
	return ""
}

func nodeProxy(nodes *kind.REST, agents AgentTransport) rest.Storage {
	return &proxyREST{
		options: func() runtime.Object { return &corev1.NodeProxyOptions{} },
		path:    func(o runtime.Object) string { return o.(*corev1.NodeProxyOptions).Path },
		locate: func(ctx context.Context, id string) (*url.URL, http.RoundTripper, error) {
			scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
			if !ok {
				return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", id))
			}
			obj, err := nodes.Get(ctx, name, &metav1.GetOptions{})
			if err != nil {
				return nil, nil, err
			}
			if port != "" {
				host, err := internalIP(obj.(*corev1.Node))
				if err != nil {
					return nil, nil, err
				}
				return &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}, anyCertificate, nil
			}
			if agents == nil {
				return nil, nil, apierrors.NewServiceUnavailable("this API server has no way to the agents of nodes")
			}
			base, transport, err := agents.Agent(ctx, name)
			if err != nil {
				return nil, nil, unreachable(name, err)
			}
			to := *base
			return &to, transport, nil
		},
	}
}

func internalIP(n *corev1.Node) (string, error) {
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if _, ok := reachable(a.Address); !ok {
			return "", apierrors.NewBadRequest("address not allowed")
		}
		return a.Address, nil
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no address is known of node %q", n.Name))
}

// serviceProxy leads to a ready pod behind a Service, one at random.
func serviceProxy(services *kind.REST, endpoints discoveryclient.EndpointSlicesGetter, pods coreclient.PodsGetter) rest.Storage {
	return &proxyREST{
		options: func() runtime.Object { return &corev1.ServiceProxyOptions{} },
		path:    func(o runtime.Object) string { return o.(*corev1.ServiceProxyOptions).Path },
		locate: func(ctx context.Context, id string) (*url.URL, http.RoundTripper, error) {
			scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
			if !ok {
				return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", id))
			}
			if n, err := strconv.ParseInt(port, 10, 32); err == nil { // slices know ports by name
				obj, err := services.Get(ctx, name, &metav1.GetOptions{})
				if err != nil {
					return nil, nil, err
				}
				if port, ok = portName(obj.(*corev1.Service), int32(n)); !ok {
					return nil, nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", n, name))
				}
			}
			list, err := endpoints.EndpointSlices(request.NamespaceValue(ctx)).List(ctx, metav1.ListOptions{
				LabelSelector: discoveryv1.LabelServiceName + "=" + name, ResourceVersion: "0",
			})
			if err != nil {
				return nil, nil, err
			}
			var of []*discoveryv1.EndpointSlice
			for i := range list.Items {
				of = append(of, &list.Items[i])
			}
			if len(of) == 0 {
				return nil, nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
			}
			host, err := serviceproxy.RandomEndpoint(name, of, port, corev1.IPv4Protocol, func(e *discoveryv1.Endpoint) bool {
				return behind(ctx, pods.Pods(request.NamespaceValue(ctx)), e)
			})
			if err != nil {
				return nil, nil, err
			}
			return &url.URL{Scheme: scheme, Host: host}, anyCertificate, nil
		},
	}
}

// behind tells whether an endpoint is a pod of the namespace. Whoever may write slices
// must not lead this server elsewhere, so the pod is asked, not the slice.
func behind(ctx context.Context, pods coreclient.PodInterface, e *discoveryv1.Endpoint) bool {
	if e.TargetRef == nil || e.TargetRef.Kind != "Pod" || e.TargetRef.Namespace != request.NamespaceValue(ctx) || len(e.Addresses) == 0 {
		return false
	}
	pod, err := pods.Get(ctx, e.TargetRef.Name, metav1.GetOptions{ResourceVersion: "0"})
	return err == nil && has(pod, e.Addresses[0])
}

// has tells whether an address is the pod's, and one that pods may have.
func has(pod *corev1.Pod, address string) bool {
	if _, ok := reachable(address); !ok {
		return false
	}
	return slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == address })
}

// reachable refuses what would be this machine itself, or what only its link sees.
func reachable(address string) (netip.Addr, bool) {
	ip, err := netip.ParseAddr(address)
	return ip, err == nil && ip.Unmap().IsGlobalUnicast()
}

func portName(s *corev1.Service, port int32) (string, bool) {
	for _, p := range s.Spec.Ports {
		if p.Port == port {
			return p.Name, true
		}
	}
	return "", false
}
