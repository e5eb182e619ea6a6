package allocate

import (
	"context"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"kontiki/raftstore"
)

const (
	// managedBy is upstream's value of the label by which IPAddresses of Services are known.
	managedBy = "ipallocator.k8s.io"
	// fieldManager owns the fields of an IPAddress that is written with its Service.
	fieldManager = "kube-apiserver"
)

// ownedFields are the fields that fieldManager owns, as the API's managed fields.
const ownedFields = `{"f:metadata":{"f:labels":{".":{},"f:ipaddress.kubernetes.io/ip-family":{},"f:ipaddress.kubernetes.io/managed-by":{}}},` +
	`"f:spec":{".":{},"f:parentRef":{".":{},"f:name":{},"f:namespace":{},"f:resource":{}}}}`

// IPKey is the ledger's key of an address.
func IPKey(ip netip.Addr) string { return Key(addresses, ip.String()) }

// Family is the address family of an address.
func Family(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// newIPAddress is the object that shows that the Service owner, namespace/name, holds ip.
func newIPAddress(ip netip.Addr, owner string) *networkingv1.IPAddress {
	now := metav1.Now()
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: ip.String(), UID: uuid.NewUUID(), CreationTimestamp: now,
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(Family(ip)),
				networkingv1.LabelManagedBy:       managedBy,
			},
			ManagedFields: []metav1.ManagedFieldsEntry{{
				Manager: fieldManager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: networkingv1.SchemeGroupVersion.String(),
				Time: &now, FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(ownedFields)},
			}},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: parentOf(owner)},
	}
}

func parentOf(owner string) *networkingv1.ParentReference {
	namespace, name, _ := strings.Cut(owner, "/")
	return &networkingv1.ParentReference{Resource: "services", Namespace: namespace, Name: name}
}

// goesWith tells whether a stored IPAddress shows what owner holds and can be removed
// with it. One that cannot be read is not known to: it is left for people to see.
func (l *Ledger) goesWith(ctx context.Context, kv raftstore.KV, owner string) bool {
	obj, err := l.shown.Object(ctx, kv)
	if err != nil {
		return false
	}
	ip, ok := obj.(*networkingv1.IPAddress)
	return ok && ip.Spec.ParentRef != nil && *ip.Spec.ParentRef == *parentOf(owner) && len(ip.Finalizers) == 0
}
