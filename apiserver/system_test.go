package apiserver

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

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
// TestDefaultServiceCIDRIsTold: what differs from the cluster's settings is told in upstream's
// words, once, and left; only a second range is added.
func TestDefaultServiceCIDRIsTold(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	client := clientOf(t, s, Self())
	if err := (&System{Client: client}).namespace(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	told := record.NewFakeRecorder(10)
	one, two := netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd00:43::/112")
	ensure := func(primary, secondary netip.Prefix, want ...string) *networkingv1.ServiceCIDR {
		t.Helper()
		system := &System{Client: client, ServiceCIDR: primary, SecondaryServiceCIDR: secondary, Events: told, Logger: slog.New(slog.DiscardHandler)}
		for range 3 {
			if err := system.serviceCIDR(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for len(told.Events) > 0 {
			got = append(got, <-told.Events)
		}
		if !slices.Equal(got, want) {
			t.Errorf("ranges %s and %s: it tells %q, want %q", primary, secondary, got, want)
		}
		cidr, err := client.NetworkingV1().ServiceCIDRs().Get(t.Context(), "kubernetes", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return cidr
	}
	ready := func(cidr *networkingv1.ServiceCIDR) bool {
		return meta.IsStatusConditionTrue(cidr.Status.Conditions, "Ready")
	}
	if cidr := ensure(one, netip.Prefix{}); !ready(cidr) {
		t.Errorf("it is %+v", cidr)
	}
	if cidr := ensure(one, two); !slices.Equal(cidr.Spec.CIDRs, []string{"10.43.0.0/16", "fd00:43::/112"}) || !ready(cidr) {
		t.Errorf("with a second range it is %+v", cidr)
	}
	cidr := ensure(netip.MustParsePrefix("10.50.0.0/16"), netip.Prefix{},
		"Warning KubernetesDefaultServiceCIDRInconsistent The default ServiceCIDR [10.43.0.0/16 fd00:43::/112] does not match the controller flag configurations [10.50.0.0/16]")
	if len(cidr.Spec.CIDRs) != 2 {
		t.Errorf("it was changed: %+v", cidr)
	}
	meta.SetStatusCondition(&cidr.Status.Conditions, metav1.Condition{Type: "Ready", Status: metav1.ConditionFalse, Reason: "Broken", Message: "somebody said so"})
	if _, err := client.NetworkingV1().ServiceCIDRs().UpdateStatus(t.Context(), cidr, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if cidr := ensure(one, two, "Warning Broken Configuration matches, but somebody said so"); ready(cidr) {
		t.Errorf("it was said to be ready: %+v", cidr)
	}
}

// TestDefaultServiceCIDRCannotBeMade: an API that refuses it is told of.
func TestDefaultServiceCIDRCannotBeMade(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("create", "servicecidrs", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewInternalError(errors.New("no"))
	})
	told := record.NewFakeRecorder(10)
	system := &System{Client: client, ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"), Events: told}
	if err := system.serviceCIDR(t.Context()); err == nil {
		t.Error("it is said to be there")
	}
	if got, want := <-told.Events, "Warning KubernetesDefaultServiceCIDRError The default ServiceCIDR can not be created"; got != want {
		t.Errorf("it tells %q, want %q", got, want)
	}
}

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
