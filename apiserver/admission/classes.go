package admission

import (
	"context"
	"errors"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
)

// What marks a StorageClass as the default, and in old objects.
const (
	isDefaultStorage     = "storageclass.kubernetes.io/is-default-class"
	isDefaultStorageBeta = "storageclass.beta.kubernetes.io/is-default-class"
	claimClassBeta       = corev1.BetaStorageClassAnnotation
)

// defaultStorage names the default StorageClass in claims that name none:
// upstream's plugin DefaultStorageClass.
type defaultStorage struct {
	*admission.Handler
	classes storagelisters.StorageClassLister
}

func newDefaultStorage(shared informers.SharedInformerFactory) *defaultStorage {
	classes := shared.Storage().V1().StorageClasses()
	d := &defaultStorage{admission.NewHandler(admission.Create), classes.Lister()}
	d.SetReadyFunc(classes.Informer().HasSynced)
	return d
}

// Admit implements admission.MutationInterface.
func (d *defaultStorage) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("persistentvolumeclaims") || a.GetSubresource() != "" {
		return nil
	}
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok || claim.Spec.StorageClassName != nil {
		return nil
	}
	if _, old := claim.Annotations[claimClassBeta]; old {
		return nil
	}
	if !d.WaitForReady() {
		return admission.NewForbidden(a, errNotReady)
	}
	all, err := d.classes.List(labels.Everything())
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	class := newest(all, func(c *storagev1.StorageClass) bool {
		return c.Annotations[isDefaultStorage] == "true" || c.Annotations[isDefaultStorageBeta] == "true"
	})
	if class != nil {
		claim.Spec.StorageClassName = &class.Name
	}
	return nil
}

// defaultIngress names the default IngressClass in Ingresses that name none:
// upstream's plugin DefaultIngressClass.
type defaultIngress struct {
	*admission.Handler
	classes networkinglisters.IngressClassLister
}

func newDefaultIngress(shared informers.SharedInformerFactory) *defaultIngress {
	classes := shared.Networking().V1().IngressClasses()
	d := &defaultIngress{admission.NewHandler(admission.Create), classes.Lister()}
	d.SetReadyFunc(classes.Informer().HasSynced)
	return d
}

// Admit implements admission.MutationInterface.
func (d *defaultIngress) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != networkingv1.Resource("ingresses") || a.GetSubresource() != "" {
		return nil
	}
	ingress, ok := a.GetObject().(*networkingv1.Ingress)
	if !ok || ingress.Spec.IngressClassName != nil {
		return nil
	}
	if _, old := ingress.Annotations["kubernetes.io/ingress.class"]; old {
		return nil
	}
	if !d.WaitForReady() {
		return admission.NewForbidden(a, errNotReady)
	}
	all, err := d.classes.List(labels.Everything())
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	class := newest(all, func(c *networkingv1.IngressClass) bool {
		return c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
	})
	if class != nil {
		ingress.Spec.IngressClassName = &class.Name
	}
	return nil
}

// newest is the class that was marked last, by its creation and then its name.
func newest[T metav1.Object](all []T, marked func(T) bool) (found T) {
	all = slices.DeleteFunc(slices.Clone(all), func(c T) bool { return !marked(c) })
	slices.SortFunc(all, func(a, b T) int {
		if at, bt := a.GetCreationTimestamp().Unix(), b.GetCreationTimestamp().Unix(); at != bt {
			return int(bt - at)
		}
		return strings.Compare(a.GetName(), b.GetName())
	})
	if len(all) > 0 {
		return all[0]
	}
	return found
}

// inUse lets claims and volumes stay until nobody needs them, by a finalizer:
// upstream's plugin StorageObjectInUseProtection. Upstream's finalizer of volume
// attribute classes comes with their controller: nobody here would take it off.
type inUse struct{ *admission.Handler }

func newInUse() inUse { return inUse{admission.NewHandler(admission.Create)} }

// Admit implements admission.MutationInterface.
func (inUse) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" {
		return nil
	}
	var finalizer string
	switch a.GetResource().GroupResource() {
	case corev1.Resource("persistentvolumes"):
		finalizer = "kubernetes.io/pv-protection"
	case corev1.Resource("persistentvolumeclaims"):
		finalizer = "kubernetes.io/pvc-protection"
	default:
		return nil
	}
	obj, ok := a.GetObject().(metav1.Object)
	if !ok {
		return nil
	}
	if have := obj.GetFinalizers(); !slices.Contains(have, finalizer) {
		obj.SetFinalizers(append(have, finalizer))
	}
	return nil
}

// resize lets only claims grow whose class says that they can: upstream's plugin
// PersistentVolumeClaimResize.
type resize struct {
	*admission.Handler
	classes storagelisters.StorageClassLister
}

func newResize(shared informers.SharedInformerFactory) *resize {
	classes := shared.Storage().V1().StorageClasses()
	r := &resize{admission.NewHandler(admission.Update), classes.Lister()}
	r.SetReadyFunc(classes.Informer().HasSynced)
	return r
}

// Validate implements admission.ValidationInterface.
func (r *resize) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("persistentvolumeclaims") || a.GetSubresource() != "" {
		return nil
	}
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	old, okOld := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok || !okOld {
		return nil
	}
	now, before := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if now.Cmp(before) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return admission.NewForbidden(a, errors.New("Only bound persistent volume claims can be expanded")) //nolint:staticcheck // upstream's words
	}
	if !r.WaitForReady() {
		return admission.NewForbidden(a, errNotReady)
	}
	name := classOf(claim)
	class, err := r.classes.Get(name)
	if name == "" || name != classOf(old) || err != nil || class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
		return admission.NewForbidden(a, errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
	}
	return nil
}

func classOf(claim *corev1.PersistentVolumeClaim) string {
	if class, ok := claim.Annotations[claimClassBeta]; ok {
		return class
	}
	if claim.Spec.StorageClassName != nil {
		return *claim.Spec.StorageClassName
	}
	return ""
}
