// Package csr signs approved CertificateSigningRequests for the signers that the
// cluster's own authority stands for, and removes requests that are of no more use.
// Approving is for people, and for those they let.
//
// plan.go decides and is pure; controller.go does. A request is handled by one worker
// at a time. Only controllers imports this package.
package csr

import (
	"context"
	"crypto/x509"
	"log/slog"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs.
const (
	Name    = "csr"
	workers = 2
)

// Signer makes certificates, in PEM; node fills it with the cluster's authority. It
// refuses requests that are not signed with their own key.
type Signer interface {
	Sign(request *x509.CertificateRequest, usage x509.KeyUsage, extended []x509.ExtKeyUsage, life time.Duration) ([]byte, error)
}

// Controller signs and removes requests.
type Controller struct {
	client   kubernetes.Interface
	signer   Signer
	now      func() time.Time
	informer cache.SharedIndexInformer
	requests certificateslisters.CertificateSigningRequestLister
	loop     *loop.Loop
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, signer Signer, log *slog.Logger, now func() time.Time) *Controller {
	requests := shared.Certificates().V1().CertificateSigningRequests()
	return &Controller{client: client, signer: signer, now: now, informer: requests.Informer(), requests: requests.Lister(), loop: loop.New(Name, log)}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := loop.On(c.loop, c.informer, func(_, after *certificatesv1.CertificateSigningRequest) {
		if after != nil {
			c.loop.Add(after.Name)
		}
	})
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

func (c *Controller) sync(ctx context.Context, name string) error {
	csr, err := c.requests.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	a := plan(csr, c.now())
	if a.again > 0 {
		c.loop.AddAfter(name, a.again)
	}
	client := c.client.CertificatesV1().CertificateSigningRequests()
	if a.remove {
		return client.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &csr.UID, ResourceVersion: &csr.ResourceVersion}})
	}
	update := csr.DeepCopy()
	if a.sign != nil {
		signed, err := c.signer.Sign(a.sign.request, a.sign.usage, a.sign.extended, a.sign.life)
		if err == nil {
			update.Status.Certificate = signed
			_, err = client.UpdateStatus(ctx, update, metav1.UpdateOptions{})
			return err
		}
		a.fail = err
	}
	if a.fail == nil {
		return nil
	}
	now := metav1.NewTime(c.now())
	update.Status.Conditions = append(update.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure",
		Message: a.fail.Error(), LastUpdateTime: now, LastTransitionTime: now,
	})
	_, err = client.UpdateStatus(ctx, update, metav1.UpdateOptions{})
	return err
}
