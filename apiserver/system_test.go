package apiserver

import (
	"log/slog"
	"net/netip"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/apiserver/storage"
	"kontiki/raftstore/raftstoretest"
)

func TestSystem(t *testing.T) {
	store := raftstoretest.New(t)
	s := startServer(t, store)
	client := clientOf(t, s, Self())
	addrs := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:6443"), netip.MustParseAddrPort("10.0.0.1:6443")}
	system := &System{
		Client: client, ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
		ClientCA: []byte("clients"), FrontProxyCA: []byte("front"),
		Endpoints: func() []netip.AddrPort { return addrs }, Logger: slog.New(slog.DiscardHandler),
	}
	if err := system.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	svc, err := client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil || svc.Spec.ClusterIP != "10.43.0.1" {
		t.Fatalf("%v %v", svc, err)
	}
	slice, err := client.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil || len(slice.Endpoints) != 2 || slice.Endpoints[0].Addresses[0] != "10.0.0.1" {
		t.Fatalf("%v %v", slice, err)
	}
	authentication, err := client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{})
	if err != nil || authentication.Data["requestheader-client-ca-file"] != "front" {
		t.Fatalf("%v %v", authentication, err)
	}
	cidr, err := client.NetworkingV1().ServiceCIDRs().Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil || cidr.Spec.CIDRs[0] != "10.43.0.0/16" || !meta.IsStatusConditionTrue(cidr.Status.Conditions, "Ready") {
		t.Fatalf("%v %v", cidr, err)
	}
	settled(t, s)
	revision := store.View().Revision()
	if err := system.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := store.View().Revision(); now != revision {
		t.Errorf("nothing differed, and revision %d became %d", revision, now)
	}
	addrs = append(addrs[:1], netip.MustParseAddrPort("[fd00::1]:6443"))
	if err := system.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := client.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 || len(list.Items[0].Endpoints) != 1 {
		t.Errorf("%v %v", list, err)
	}
}

// TestFencedClient wants a client of a term that has passed to be refused for good.
func TestFencedClient(t *testing.T) {
	store := raftstoretest.New(t)
	s := startServer(t, store)
	term, err := store.Barrier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defaultNamespace(t, clientOf(t, s, Self(), WithTerm(term)))
	late := clientOf(t, s, Self(), WithTerm(term+1)).CoreV1().Services("default")
	if _, err := late.Create(t.Context(), service("late"), metav1.CreateOptions{}); !storage.IsFenced(err) {
		t.Errorf("a write of another term: %v", err)
	}
	system := &System{
		Client: clientOf(t, s, Self(), WithTerm(term+1)), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
		Endpoints: func() []netip.AddrPort { return nil }, Logger: slog.New(slog.DiscardHandler),
	}
	if err := system.Run(t.Context()); !storage.IsFenced(err) {
		t.Errorf("a System of another term ended with %v", err)
	}
}
