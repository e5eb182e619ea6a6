package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"kontiki/pki"
	"kontiki/raftstore/raftstoretest"
)

// serve starts an HTTPS server whose certificate a has signed for names. It
// listens on an address of this machine that an EndpointSlice may hold.
func (a *authority) serve(t *testing.T, handler http.Handler, config *tls.Config, names ...string) (*httptest.Server, netip.AddrPort) {
	t.Helper()
	listener := listenOutside(t)
	addr := listener.Addr().(*net.TCPAddr).AddrPort()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "server"}, DNSNames: names, IPAddresses: []net.IP{addr.Addr().AsSlice()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = listener
	if config == nil {
		config = &tls.Config{}
	}
	config.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	server.TLS = config
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, addr
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// listenOutside listens on an IPv4 address that is not loopback: pods have no other.
func listenOutside(t *testing.T) net.Listener {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().Is4() || prefix.Addr().IsLoopback() {
			continue
		}
		if l, err := net.Listen("tcp", netip.AddrPortFrom(prefix.Addr(), 0).String()); err == nil {
			return l
		}
	}
	t.Skip("needs an IPv4 address besides loopback")
	return nil
}

// expose makes a Service of port 443 that leads to addr.
func expose(t *testing.T, c kubernetes.Interface, name string, addr netip.AddrPort) {
	t.Helper()
	port, proto := int32(addr.Port()), corev1.ProtocolTCP
	_, err := c.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: proto}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	https := "https"
	_, err = c.DiscoveryV1().EndpointSlices("default").Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &https, Port: &port, Protocol: &proto}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{addr.Addr().String()}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// starServer is an aggregated API server with one kind.
func starServer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	proxy := "nobody"
	if len(r.TLS.PeerCertificates) > 0 {
		proxy = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	switch r.URL.Path {
	case "/apis":
		fmt.Fprint(w, `{"kind":"APIGroupList","apiVersion":"v1","groups":[{"name":"sky.example","versions":[{"groupVersion":"sky.example/v1","version":"v1"}],"preferredVersion":{"groupVersion":"sky.example/v1","version":"v1"}}]}`)
	case "/apis/sky.example/v1":
		fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"sky.example/v1","resources":[{"name":"stars","singularName":"star","namespaced":false,"kind":"Star","verbs":["get"]}]}`)
	case "/apis/sky.example/v1/stars/polaris":
		fmt.Fprintf(w, `{"kind":"Star","apiVersion":"sky.example/v1","metadata":{"name":"polaris"},"user":%q,"groups":%q,"proxy":%q}`,
			r.Header.Get("X-Remote-User"), strings.Join(r.Header.Values("X-Remote-Group"), ","), proxy)
	default:
		http.NotFound(w, r)
	}
}

func TestAggregatedAPI(t *testing.T) {
	trust, err := pki.NewTrust("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	front, err := trust.Authority.FrontProxy()
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := front.Client(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	files := FrontProxy{CertFile: filepath.Join(t.TempDir(), "crt"), KeyFile: filepath.Join(t.TempDir(), "key")}
	if err := os.WriteFile(files.CertFile, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.KeyFile, key, 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, raftstoretest.New(t), func(c *Config) { c.FrontProxy = files })
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	fronts := x509.NewCertPool()
	fronts.AddCert(front.Cert)
	ca := newAuthority(t)
	server, addr := ca.serve(t, http.HandlerFunc(starServer), &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: fronts}, "stars.default.svc")
	_ = server
	expose(t, c, "stars", addr)

	services, err := aggregatorclient.NewForConfig(jsonOnly(s.Client(admin)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = services.ApiregistrationV1().APIServices().Create(t.Context(), &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1.sky.example"},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: "sky.example", Version: "v1", GroupPriorityMinimum: 1000, VersionPriority: 15, CABundle: ca.pem(),
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "stars"},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rest := c.Discovery().RESTClient()
	var last string
	eventually(t, "a star is shown", func(ctx context.Context) (bool, error) {
		data, err := rest.Get().AbsPath("/apis/sky.example/v1/stars/polaris").SetHeader("Accept", "application/json").Do(ctx).Raw()
		last = fmt.Sprint(string(data), err)
		return err == nil, nil
	})
	if !strings.Contains(last, `"user":"admin"`) || !strings.Contains(last, "system:masters") || !strings.Contains(last, `"proxy":"kontiki-front-proxy"`) {
		t.Errorf("the aggregated server saw %s", last)
	}
	eventually(t, "stars are discovered", func(context.Context) (bool, error) {
		lists, _ := c.Discovery().ServerPreferredResources()
		for _, list := range lists {
			if list.GroupVersion == "sky.example/v1" {
				return list.APIResources[0].Kind == "Star", nil
			}
		}
		return false, nil
	})
}

// TestAPIServices wants an APIService for each group version, made once.
func TestAPIServices(t *testing.T) {
	store := raftstoretest.New(t)
	s := startServer(t, store)
	ready(t, s)
	define(t, s, shipDefinition)
	settled(t, s, "v1.sea.example")
	rest := clientOf(t, s, admin).Discovery().RESTClient()
	for _, path := range []string{"/openapi/v3/apis/sea.example/v1", "/openapi/v2"} {
		eventually(t, "the kind is explained by "+path, func(ctx context.Context) (bool, error) {
			doc, err := rest.Get().AbsPath(path).SetHeader("Accept", "application/json").Do(ctx).Raw()
			return err == nil && strings.Contains(string(doc), "A Ship sails."), nil
		})
	}
}

// settled waits until every group version that s serves has an APIService that is
// available; then the chain's controllers have written all that they write.
func settled(t *testing.T, s *Server, more ...string) {
	t.Helper()
	services, err := aggregatorclient.NewForConfig(jsonOnly(s.Client(admin)))
	if err != nil {
		t.Fatal(err)
	}
	for _, gv := range groupVersions(s.servers[1].ListedPaths()) {
		more = append(more, serviceName(gv))
	}
	for _, name := range more {
		eventually(t, name+" is available", func(ctx context.Context) (bool, error) {
			got, err := services.ApiregistrationV1().APIServices().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, nil
			}
			for _, c := range got.Status.Conditions {
				if c.Type == apiregistrationv1.Available && c.Status == apiregistrationv1.ConditionTrue {
					return true, nil
				}
			}
			return false, nil
		})
	}
}
