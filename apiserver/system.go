package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"kontiki/apiserver/allocate"
	"kontiki/apiserver/storage"
	"kontiki/pki"
)

const (
	// slicesOwner marks the slices that System keeps.
	slicesOwner = "apiserver.kontiki.io"
	// extensionAuthentication is the name of a ConfigMap, upstream's.
	extensionAuthentication = "extension-apiserver-authentication"
	// systemPeriod is how often System looks whether all is still there.
	systemPeriod = 30 * time.Second
	// systemRetry is the pause after a failure.
	systemRetry = time.Second
)

// systemNamespaces are in every cluster.
var systemNamespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}

// Self is the user for System's client: the API server itself.
func Self() user.Info { return self }

// System keeps what every cluster has: its namespaces, and the Service
// default/kubernetes with the addresses of the API servers. One node of a
// cluster runs it, the leader, with a fenced client.
type System struct {
	Client kubernetes.Interface
	// ServiceCIDR and SecondaryServiceCIDR are the cluster's, as in Settings.
	ServiceCIDR, SecondaryServiceCIDR netip.Prefix
	// Endpoints returns where API servers live now.
	Endpoints func() []netip.AddrPort
	// ClientCA and FrontProxyCA are PEM: the authorities whose certificates
	// aggregated API servers shall believe. Empty leaves their ConfigMap out.
	ClientCA, FrontProxyCA []byte
	// Changed, which may be nil, tells that Endpoints returns something else.
	Changed <-chan struct{}
	// Events, which may be nil, takes what is to be told of the default ServiceCIDR.
	Events record.EventRecorder
	Logger *slog.Logger

	told cidrTold
}

// Run keeps the system's objects until ctx ends. It returns an error only when
// the client's term has passed.
func (s *System) Run(ctx context.Context) error {
	for {
		pause := systemPeriod
		if err := s.Ensure(ctx); err != nil {
			switch {
			case ctx.Err() != nil:
				return nil
			case storage.IsFenced(err):
				return err
			}
			s.Logger.Warn("the system's objects are not complete yet", "err", err)
			pause = systemRetry
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.Changed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// Ensure makes what is missing and corrects what differs. It writes nothing
// when all is as it should be.
func (s *System) Ensure(ctx context.Context) error {
	for _, name := range systemNamespaces {
		if err := s.namespace(ctx, name); err != nil {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
	}
	if err := s.extensionAuthentication(ctx); err != nil {
		return fmt.Errorf("configmap %s/%s: %w", metav1.NamespaceSystem, extensionAuthentication, err)
	}
	addrs := slices.Clone(s.Endpoints())
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	addrs = slices.Compact(addrs)
	if err := s.serviceCIDR(ctx); err != nil {
		return fmt.Errorf("service CIDR %s: %w", allocate.DefaultServiceCIDR, err)
	}
	if err := s.service(ctx, addrs); err != nil {
		return fmt.Errorf("service default/kubernetes: %w", err)
	}
	if err := s.endpointSlices(ctx, addrs); err != nil {
		return fmt.Errorf("endpoint slices of default/kubernetes: %w", err)
	}
	if err := s.roles(ctx); err != nil {
		return fmt.Errorf("default roles: %w", err)
	}
	if err := s.priorities(ctx); err != nil {
		return fmt.Errorf("priority classes: %w", err)
	}
	return nil
}

func (s *System) namespace(ctx context.Context, name string) error {
	_, err := s.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err = s.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// extensionAuthentication tells aggregated API servers whom to believe, in the
// ConfigMap in which upstream's library looks for that.
func (s *System) extensionAuthentication(ctx context.Context) error {
	if len(s.ClientCA) == 0 || len(s.FrontProxyCA) == 0 {
		return nil
	}
	data := map[string]string{
		"client-ca-file":                     string(s.ClientCA),
		"requestheader-client-ca-file":       string(s.FrontProxyCA),
		"requestheader-allowed-names":        `["` + pki.FrontProxyUser + `"]`,
		"requestheader-username-headers":     `["X-Remote-User"]`,
		"requestheader-uid-headers":          `["X-Remote-Uid"]`,
		"requestheader-group-headers":        `["X-Remote-Group"]`,
		"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	}
	client := s.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	got, err := client.Get(ctx, extensionAuthentication, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = client.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: extensionAuthentication}, Data: data}, metav1.CreateOptions{})
	case err == nil && !maps.Equal(got.Data, data):
		got.Data = data
		_, err = client.Update(ctx, got, metav1.UpdateOptions{})
	}
	return err
}

func (s *System) service(ctx context.Context, addrs []netip.AddrPort) error {
	target := int32(6443)
	if len(addrs) > 0 {
		target = int32(addrs[0].Port())
	}
	client := s.Client.CoreV1().Services(metav1.NamespaceDefault)
	ports := []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(target)}}
	got, err := client.Get(ctx, "kubernetes", metav1.GetOptions{})
	if err == nil {
		if apiequality.Semantic.DeepEqual(got.Spec.Ports, ports) {
			return nil
		}
		got.Spec.Ports = ports
		_, err = client.Update(ctx, got, metav1.UpdateOptions{})
		return err
	}
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = client.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"}},
		Spec: corev1.ServiceSpec{
			ClusterIP:       s.ServiceCIDR.Masked().Addr().Next().String(),
			SessionAffinity: corev1.ServiceAffinityNone,
			Type:            corev1.ServiceTypeClusterIP,
			Ports:           ports,
		},
	}, metav1.CreateOptions{})
	return err
}

func (s *System) endpointSlices(ctx context.Context, addrs []netip.AddrPort) error {
	client := s.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	list, err := client.List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelManagedBy + "=" + slicesOwner})
	if err != nil {
		return err
	}
	want := planSlices(addrs)
	for i := range list.Items {
		got := &list.Items[i]
		slice, ok := want[got.Name]
		delete(want, got.Name)
		switch {
		case !ok:
			err = client.Delete(ctx, got.Name, metav1.DeleteOptions{})
			if apierrors.IsNotFound(err) {
				err = nil
			}
		case !apiequality.Semantic.DeepEqual(got.Endpoints, slice.Endpoints) || !apiequality.Semantic.DeepEqual(got.Ports, slice.Ports):
			got.Endpoints, got.Ports = slice.Endpoints, slice.Ports
			_, err = client.Update(ctx, got, metav1.UpdateOptions{})
		}
		if err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if _, err := client.Create(ctx, want[name], metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// planSlices returns the slices of default/kubernetes by name: one for each
// family of addresses and port. The usual one, IPv4 and one port, is named as
// upstream names it.
func planSlices(addrs []netip.AddrPort) map[string]*discoveryv1.EndpointSlice {
	out := map[string]*discoveryv1.EndpointSlice{}
	first := map[bool]uint16{}
	for _, a := range addrs {
		is4 := a.Addr().Unmap().Is4()
		if _, ok := first[is4]; !ok {
			first[is4] = a.Port()
		}
		name, family := "kubernetes", discoveryv1.AddressTypeIPv4
		if !is4 {
			name, family = "kubernetes-ipv6", discoveryv1.AddressTypeIPv6
		}
		if a.Port() != first[is4] {
			name = fmt.Sprintf("%s-%d", name, a.Port())
		}
		slice := out[name]
		if slice == nil {
			portName, protocol, port := "https", corev1.ProtocolTCP, int32(a.Port())
			slice = &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{
					Name:   name,
					Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes", discoveryv1.LabelManagedBy: slicesOwner},
				},
				AddressType: family,
				Ports:       []discoveryv1.EndpointPort{{Name: &portName, Protocol: &protocol, Port: &port}},
			}
			out[name] = slice
		}
		ready := true
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{a.Addr().Unmap().String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	return out
}
