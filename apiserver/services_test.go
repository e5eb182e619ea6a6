package apiserver

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"kontiki/apiserver/core"
	"kontiki/raftstore/raftstoretest"
)

func service(name string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func nodePort(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }

// defaultNamespace makes the namespace default with its account, as controllers do.
func defaultNamespace(t *testing.T, c kubernetes.Interface) {
	t.Helper()
	newNamespace(t, c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
}

func newNamespace(t *testing.T, c kubernetes.Interface, ns *corev1.Namespace) {
	t.Helper()
	if _, err := c.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := c.CoreV1().ServiceAccounts(ns.Name).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestAllocationRace lets three API servers on three nodes fill a small range at
// once: no address and no port is given twice, and none is lost.
func TestAllocationRace(t *testing.T) {
	const nodes, free = 3, 14
	small := func(c *Config) {
		c.Settings.ServiceCIDR = netip.MustParsePrefix("10.43.0.0/28")
		c.Settings.NodePorts = [2]uint16{30000, 30013}
	}
	cluster := raftstoretest.NewCluster(t, nodes)
	var clients []kubernetes.Interface
	for _, store := range cluster.Stores {
		clients = append(clients, clientOf(t, startServer(t, store, small), admin))
	}
	defaultNamespace(t, clients[0])

	var wg sync.WaitGroup
	errs := make([]error, free)
	for i := range free {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, errs[i] = clients[i%nodes].CoreV1().Services("default").Create(t.Context(), service(fmt.Sprintf("s-%d", i), nodePort), metav1.CreateOptions{})
		}()
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("service %d: %v", i, err)
		}
	}
	list, err := clients[1].CoreV1().Services("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	held := map[string]string{}
	for i := range list.Items {
		for _, key := range core.ServiceHoldings(&list.Items[i]) {
			if other, ok := held[key]; ok {
				t.Errorf("%s is held by %s and by %s", key, other, list.Items[i].Name)
			}
			held[key] = list.Items[i].Name
		}
	}
	if len(held) != 2*free {
		t.Errorf("%d things are held, want %d", len(held), 2*free)
	}
	if _, err := clients[2].CoreV1().Services("default").Create(t.Context(), service("full"), metav1.CreateOptions{}); err == nil {
		t.Error("a full range gave another address")
	}
	// What a deleted Service held is free at once, whichever server is asked.
	if err := clients[0].CoreV1().Services("default").Delete(t.Context(), "s-3", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := clients[0].CoreV1().Services("default").Create(t.Context(), service("again", nodePort), metav1.CreateOptions{}); err != nil {
		t.Errorf("after a delete: %v", err)
	}
}

func TestFixedAddressesAreHonoured(t *testing.T) {
	c := clientOf(t, startServer(t, raftstoretest.New(t)), admin)
	defaultNamespace(t, c)
	services := c.CoreV1().Services("default")
	dns := func(s *corev1.Service) { s.Spec.ClusterIP = "10.43.0.10" }
	got, err := services.Create(t.Context(), service("dns", dns), metav1.CreateOptions{})
	if err != nil || got.Spec.ClusterIP != "10.43.0.10" || len(got.Spec.ClusterIPs) != 1 {
		t.Fatalf("%v %v", got, err)
	}
	_, err = services.Create(t.Context(), service("second", dns), metav1.CreateOptions{})
	want := `Service "second" is invalid: spec.clusterIPs: Invalid value: ["10.43.0.10"]: failed to allocate IP 10.43.0.10: provided IP is already allocated`
	if err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
	// A dry run holds nothing.
	if _, err := services.Create(t.Context(), service("dry", nodePort), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Error(err)
	}
	changed := got.DeepCopy()
	changed.Spec.ClusterIP = "10.43.0.11"
	if _, err := services.Update(t.Context(), changed, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("change of an address: %v", err)
	}
}

func TestServiceChangesItsType(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	services := c.CoreV1().Services("default")
	got, err := services.Create(t.Context(), service("a", nodePort), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ip, port := got.Spec.ClusterIP, got.Spec.Ports[0].NodePort
	if ip == "" || port < 30000 {
		t.Fatalf("got %q and %d", ip, port)
	}
	// As a manifest would: without what the API has given.
	bare := service("a", nodePort)
	bare.ResourceVersion = got.ResourceVersion
	if got, err = services.Update(t.Context(), bare, metav1.UpdateOptions{}); err != nil || got.Spec.ClusterIP != ip || got.Spec.Ports[0].NodePort != port {
		t.Fatalf("kept %q and %d of %q and %d: %v", got.Spec.ClusterIP, got.Spec.Ports[0].NodePort, ip, port, err)
	}
	got.Spec.Type = corev1.ServiceTypeClusterIP
	if got, err = services.Update(t.Context(), got, metav1.UpdateOptions{}); err != nil || got.Spec.Ports[0].NodePort != 0 || got.Spec.ClusterIP != ip {
		t.Fatalf("as ClusterIP: %v %v", got, err)
	}
	// The port is free for another, and only now.
	if _, err := services.Create(t.Context(), service("b", nodePort, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = port }), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	got.Spec.Type, got.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	if got, err = services.Update(t.Context(), got, metav1.UpdateOptions{}); err != nil || got.Spec.ClusterIP != "" {
		t.Fatalf("as ExternalName: %v %v", got, err)
	}
	if _, err := services.Create(t.Context(), service("c", func(s *corev1.Service) { s.Spec.ClusterIP = ip }), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	headless := service("d", func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
	if got, err = services.Create(t.Context(), headless, metav1.CreateOptions{}); err != nil || len(core.ServiceHoldings(got)) != 0 {
		t.Errorf("headless: %v %v", got, err)
	}
}
