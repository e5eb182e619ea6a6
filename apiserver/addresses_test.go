package apiserver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"kontiki/apiserver/allocate"
	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

func cidr(name string, ranges ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: ranges}}
}

// ipAddresses are the IPAddresses there are: whom each refers to, by its name.
func ipAddresses(t *testing.T, c kubernetes.Interface) map[string]string {
	t.Helper()
	list, err := c.NetworkingV1().IPAddresses().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, a := range list.Items {
		all[a.Name] = a.Spec.ParentRef.Resource + "/" + a.Spec.ParentRef.Namespace + "/" + a.Spec.ParentRef.Name
	}
	return all
}

// addressesOfServices is what ipAddresses should return.
func addressesOfServices(t *testing.T, c kubernetes.Interface) map[string]string {
	t.Helper()
	list, err := c.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, s := range list.Items {
		for _, ip := range s.Spec.ClusterIPs {
			if other, ok := all[ip]; ok {
				t.Errorf("%s is of %s and of %s", ip, other, s.Name)
			}
			all[ip] = "services/" + s.Namespace + "/" + s.Name
		}
	}
	return all
}

func sameAddresses(t *testing.T, c kubernetes.Interface) {
	t.Helper()
	want, got := addressesOfServices(t, c), ipAddresses(t, c)
	if fmt.Sprint(want) != fmt.Sprint(got) {
		t.Errorf("Services have %v, and there are the IPAddresses %v", want, got)
	}
}

// TestFurtherServiceCIDRs lets three API servers give all addresses of two ranges at once, while
// a third range is deleted under them.
func TestFurtherServiceCIDRs(t *testing.T) {
	const nodes, free = 3, 14 + 6
	small := func(c *Config) { c.Settings.ServiceCIDR = netip.MustParsePrefix("10.43.0.0/28") }
	cluster := raftstoretest.NewCluster(t, nodes)
	var clients []kubernetes.Interface
	for _, store := range cluster.Stores {
		clients = append(clients, clientOf(t, startServer(t, store, small), admin))
	}
	defaultNamespace(t, clients[0])
	ranges := clients[0].NetworkingV1().ServiceCIDRs()
	going := cidr("a-going", "10.60.0.0/24")
	going.Finalizers = []string{"example.com/kept"}
	for _, c := range []*networkingv1.ServiceCIDR{cidr("further", "10.50.0.0/29"), going} {
		if _, err := ranges.Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := ranges.Delete(t.Context(), "a-going", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	errs := make([]error, free)
	for i := range free {
		wg.Go(func() {
			_, errs[i] = clients[i%nodes].CoreV1().Services("default").Create(t.Context(), service(fmt.Sprintf("s-%d", i)), metav1.CreateOptions{})
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("service %d: %v", i, err)
		}
	}
	sameAddresses(t, clients[1])
	further := 0
	for ip := range ipAddresses(t, clients[1]) {
		if strings.HasPrefix(ip, "10.50.0.") {
			further++
		}
		if strings.HasPrefix(ip, "10.60.0.") {
			t.Errorf("%s comes from a ServiceCIDR that is deleted", ip)
		}
	}
	if further != 6 {
		t.Errorf("%d addresses come from the further range, want 6", further)
	}
	_, err := clients[2].CoreV1().Services("default").Create(t.Context(), service("full"), metav1.CreateOptions{})
	if want := "Internal error occurred: failed to allocate a serviceIP: range is full"; err == nil || err.Error() != want {
		t.Errorf("full ranges: got %v\nwant %s", err, want)
	}
	_, err = clients[2].CoreV1().Services("default").Create(t.Context(), service("out", func(s *corev1.Service) { s.Spec.ClusterIP = "10.60.0.9" }), metav1.CreateOptions{})
	want := `Service "out" is invalid: spec.clusterIPs: Invalid value: ["10.60.0.9"]: failed to allocate IP 10.60.0.9: the provided network does not match the current range`
	if err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
	if err := clients[0].CoreV1().Services("default").Delete(t.Context(), "s-3", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	sameAddresses(t, clients[0])
	if _, err := clients[0].CoreV1().Services("default").Create(t.Context(), service("again"), metav1.CreateOptions{}); err != nil {
		t.Errorf("after a delete: %v", err)
	}
}

// lateBackend does something between the choice of an address and its write.
type lateBackend struct {
	*raftstore.Store
	before func(raftstore.Txn)
}

func (b *lateBackend) Apply(ctx context.Context, txn raftstore.Txn) (raftstore.TxnResult, error) {
	if before := b.before; before != nil && slices.ContainsFunc(txn.Ops, func(o raftstore.Op) bool { return strings.HasPrefix(o.Key, "/kontiki/allocated/clusterips/") }) {
		b.before = nil
		before(txn)
	}
	return b.Store.Apply(ctx, txn)
}

// TestNoAddressFromARangeThatIsDeleted has a ServiceCIDR deleted after an address of it
// was chosen: what is chosen then comes from another.
func TestNoAddressFromARangeThatIsDeleted(t *testing.T) {
	late := &lateBackend{Store: raftstoretest.New(t)}
	s := startServer(t, late.Store, func(c *Config) { c.Store = late })
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	ranges := c.NetworkingV1().ServiceCIDRs()
	wide := cidr("further", "10.50.0.0/24")
	wide.Finalizers = []string{"example.com/kept"}
	if _, err := ranges.Create(t.Context(), wide, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	asked := func(s *corev1.Service) { s.Spec.ClusterIP = "10.50.0.7" }
	late.before = func(raftstore.Txn) {
		if err := ranges.Delete(context.WithoutCancel(t.Context()), "further", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
	_, err := c.CoreV1().Services("default").Create(t.Context(), service("late", asked), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "the provided network does not match the current range") {
		t.Errorf("an address of a range that was deleted meanwhile: %v", err)
	}
	sameAddresses(t, c)
}

func TestIPAddressesAreTheirServices(t *testing.T) {
	store := raftstoretest.New(t)
	c := clientOf(t, startServer(t, store), admin)
	defaultNamespace(t, c)
	services, addresses := c.CoreV1().Services("default"), c.NetworkingV1().IPAddresses()
	made, err := services.Create(t.Context(), service("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	shown, err := addresses.Get(t.Context(), made.Spec.ClusterIP, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}
	if fmt.Sprint(shown.Labels) != fmt.Sprint(labels) || shown.UID == "" || shown.CreationTimestamp.IsZero() || len(shown.ManagedFields) != 1 {
		t.Errorf("the IPAddress is %+v", shown)
	}
	if ref := *shown.Spec.ParentRef; ref != (networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "a"}) {
		t.Errorf("it refers to %+v", ref)
	}
	// It is an object as any other: it can be changed.
	shown.Annotations = map[string]string{"example.com/note": "x"}
	if _, err := addresses.Update(t.Context(), shown, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	if err := services.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	sameAddresses(t, c)

	// What others have made is theirs: it is not given away, and not removed.
	gateway := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: "10.43.0.77"},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Group: "gateway.networking.k8s.io", Resource: "gateways", Namespace: "n", Name: "g"}},
	}
	if _, err := addresses.Create(t.Context(), gateway, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	asked := func(s *corev1.Service) { s.Spec.ClusterIP = "10.43.0.77" }
	if _, err := services.Create(t.Context(), service("b", asked), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "provided IP is already allocated") {
		t.Errorf("an address that something else holds: %v", err)
	}

	// A Service of an earlier version has none, and one of which a user has put a finalizer on it
	// leaves it behind.
	old, err := services.Create(t.Context(), service("old"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := addresses.Delete(t.Context(), old.Spec.ClusterIP, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	again := func(s *corev1.Service) { s.Spec.ClusterIP = old.Spec.ClusterIP }
	if _, err := services.Create(t.Context(), service("second", again), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "provided IP is already allocated") {
		t.Errorf("an address whose IPAddress was removed: %v", err)
	}
	old.Labels = map[string]string{"changed": "yes"}
	if _, err := services.Update(t.Context(), old, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	if err := services.Delete(t.Context(), "old", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if owner, held := allocate.NewLedger(store).Owner(allocate.IPKey(netip.MustParseAddr(old.Spec.ClusterIP))); held {
		t.Errorf("the address of a deleted Service is still %s's", owner)
	}
	kept, err := services.Create(t.Context(), service("kept"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if shown, err = addresses.Get(t.Context(), kept.Spec.ClusterIP, metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	shown.Finalizers = []string{"example.com/kept"}
	if _, err := addresses.Update(t.Context(), shown, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := services.Delete(t.Context(), "kept", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, ok := ipAddresses(t, c)[kept.Spec.ClusterIP]; !ok {
		t.Error("an IPAddress with a finalizer went with its Service")
	}
}

func dualStack(c *Config) {
	c.Settings.SecondaryServiceCIDR = netip.MustParsePrefix("fd00:10:43::/112")
}

func familyPolicy(p corev1.IPFamilyPolicy) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.IPFamilyPolicy = &p }
}

func families(all ...corev1.IPFamily) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.IPFamilies = all }
}

func ips(all ...string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = all[0], all }
}

func noSelector(s *corev1.Service) { s.Spec.Selector = nil }

const (
	single, prefer, require = corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack
	v4, v6                  = corev1.IPv4Protocol, corev1.IPv6Protocol
)

// TestFamiliesOfServices is KEP-563's table, for a cluster of one family and one of two.
func TestFamiliesOfServices(t *testing.T) {
	var clients []kubernetes.Interface
	for _, change := range [][]func(*Config){nil, {dualStack}} {
		c := clientOf(t, startServer(t, raftstoretest.New(t), change...), admin)
		defaultNamespace(t, c)
		clients = append(clients, c)
	}
	for name, tc := range map[string]struct {
		change         []func(*corev1.Service)
		one, two       string // policy, families, number of addresses; or the error
		oneErr, twoErr string
	}{
		"nothing":         {nil, "SingleStack [IPv4] 1", "SingleStack [IPv4] 1", "", ""},
		"single":          {[]func(*corev1.Service){familyPolicy(single)}, "SingleStack [IPv4] 1", "SingleStack [IPv4] 1", "", ""},
		"prefer":          {[]func(*corev1.Service){familyPolicy(prefer)}, "PreferDualStack [IPv4] 1", "PreferDualStack [IPv4 IPv6] 2", "", ""},
		"require":         {[]func(*corev1.Service){familyPolicy(require)}, "", "RequireDualStack [IPv4 IPv6] 2", `spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`, ""},
		"IPv6":            {[]func(*corev1.Service){families(v6)}, "", "SingleStack [IPv6] 1", `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`, ""},
		"prefer IPv6":     {[]func(*corev1.Service){familyPolicy(prefer), families(v6)}, "", "PreferDualStack [IPv6 IPv4] 2", `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`, ""},
		"two, no policy":  {[]func(*corev1.Service){families(v4, v6)}, "", "", "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified", "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"},
		"an address":      {[]func(*corev1.Service){ips("fd00:10:43::7")}, "", "SingleStack [IPv6] 1", `spec.clusterIPs[0]: Invalid value: ["fd00:10:43::7"]: IPv6 is not configured on this cluster`, ""},
		"two addresses":   {[]func(*corev1.Service){familyPolicy(require), ips("fd00:10:43::8", "10.43.0.8")}, "", "RequireDualStack [IPv6 IPv4] 2", `spec.clusterIPs[0]: Invalid value: ["fd00:10:43::8","10.43.0.8"]: IPv6 is not configured on this cluster`, ""},
		"one and another": {[]func(*corev1.Service){familyPolicy(prefer), ips("10.43.0.9")}, "PreferDualStack [IPv4] 1", "PreferDualStack [IPv4 IPv6] 2", "", ""},
		"not its family":  {[]func(*corev1.Service){families(v6), ips("10.43.0.9")}, "", "", "spec.clusterIPs[0]: Invalid value: \"10.43.0.9\": expected an IPv6 value as indicated by `ipFamilies[0]`", "spec.clusterIPs[0]: Invalid value: \"10.43.0.9\": expected an IPv6 value as indicated by `ipFamilies[0]`"},
		"two of a family": {[]func(*corev1.Service){familyPolicy(prefer), ips("10.43.0.9", "10.43.0.11")}, "", "", `spec.clusterIPs: Invalid value: ["10.43.0.9","10.43.0.11"]: may specify no more than one IP for each IP family`, "may specify no more than one IP for each IP family"},
		"headless":        {[]func(*corev1.Service){familyPolicy(prefer), ips("None")}, "PreferDualStack [IPv4] 0", "PreferDualStack [IPv4 IPv6] 0", "", ""},
		"only a name":     {[]func(*corev1.Service){ips("None"), noSelector}, "RequireDualStack [IPv4 IPv6] 0", "RequireDualStack [IPv4 IPv6] 0", "", ""},
		"an external name": {[]func(*corev1.Service){func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		}},
			" [] 0", " [] 0", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for i, want := range []struct{ shape, err string }{{tc.one, tc.oneErr}, {tc.two, tc.twoErr}} {
				services := clients[i].CoreV1().Services("default")
				got, err := services.Create(t.Context(), service("s", tc.change...), metav1.CreateOptions{})
				if want.err != "" {
					if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want.err) {
						t.Errorf("\n got %v\nwant %s", err, want.err)
					}
					continue
				}
				if err != nil {
					t.Errorf("want %s: %v", want.shape, err)
					continue
				}
				if is := shape(got); is != want.shape {
					t.Errorf("got %s, want %s", is, want.shape)
				}
				if err := services.Delete(t.Context(), "s", metav1.DeleteOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func shape(s *corev1.Service) string {
	p := corev1.IPFamilyPolicy("")
	if s.Spec.IPFamilyPolicy != nil {
		p = *s.Spec.IPFamilyPolicy
	}
	n := 0
	for i, text := range s.Spec.ClusterIPs {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		if n++; allocate.Family(ip) != s.Spec.IPFamilies[i] {
			return "the address " + text + " is not of the family at its place"
		}
	}
	return fmt.Sprintf("%s %v %d", p, s.Spec.IPFamilies, n)
}

func TestServicesBecomeDualStackAndBack(t *testing.T) {
	c := clientOf(t, startServer(t, raftstoretest.New(t), dualStack), admin)
	defaultNamespace(t, c)
	services := c.CoreV1().Services("default")
	got, err := services.Create(t.Context(), service("s"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first := got.Spec.ClusterIP
	step := func(want string, change ...func(*corev1.Service)) {
		t.Helper()
		next := got.DeepCopy()
		for _, f := range change {
			f(next)
		}
		written, err := services.Update(t.Context(), next, metav1.UpdateOptions{})
		if strings.Contains(want, " ") && err == nil && shape(written) == want && written.Spec.ClusterIP == first {
			got = written
			return
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("want %s, got %v: %v", want, written.Spec, err)
		}
	}
	step("RequireDualStack [IPv4 IPv6] 2", familyPolicy(require))
	sameAddresses(t, c)
	second := got.Spec.ClusterIPs[1]
	step("must be 'SingleStack' to release the secondary cluster IP", ips(first))
	step("must be 'SingleStack' to release the secondary IP family", families(v4))
	step("may not change once set", ips(first, "fd00:10:43::9"))
	step("PreferDualStack [IPv4 IPv6] 2", familyPolicy(prefer))
	step("SingleStack [IPv4] 1", familyPolicy(single))
	sameAddresses(t, c)
	if _, held := ipAddresses(t, c)[second]; held {
		t.Errorf("%s is held by a Service that gave it back", second)
	}
	step("PreferDualStack [IPv4 IPv6] 2", familyPolicy(prefer), ips(first, second))
	if got.Spec.ClusterIPs[1] != second {
		t.Errorf("asked for %s, got %v", second, got.Spec.ClusterIPs)
	}
	// As a manifest would that says nothing of addresses.
	bare := service("s", familyPolicy(prefer))
	bare.ResourceVersion = got.ResourceVersion
	if got, err = services.Update(t.Context(), bare, metav1.UpdateOptions{}); err != nil || got.Spec.ClusterIPs[1] != second {
		t.Fatalf("%v %v", got, err)
	}
	if err := services.Delete(t.Context(), "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if left := ipAddresses(t, c); len(left) != 0 {
		t.Errorf("IPAddresses of nobody: %v", left)
	}
}
