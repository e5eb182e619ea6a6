// Package namespacedefaults gives each namespace what pods in it rely on: the
// ServiceAccount default, and the ConfigMap kube-root-ca.crt with the certificates
// that prove the API server's.
//
// plan.go decides and is pure; controller.go does. A namespace is handled by one
// worker at a time. Only controllers imports this package.
package namespacedefaults

import (
	"context"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs.
const (
	Name    = "namespacedefaults"
	workers = 2
)

// Controller keeps the defaults of namespaces.
type Controller struct {
	client kubernetes.Interface
	ca     string

	namespaceInformer, accountInformer, bundleInformer cache.SharedIndexInformer

	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
	bundles    corelisters.ConfigMapLister
	loop       *loop.Loop
}

// New makes the controller on shared informers. ca is PEM; if it is empty, no
// bundle is published.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, ca string, log *slog.Logger) *Controller {
	core := shared.Core().V1()
	return &Controller{
		client: client, ca: ca,
		namespaceInformer: core.Namespaces().Informer(), accountInformer: core.ServiceAccounts().Informer(), bundleInformer: core.ConfigMaps().Informer(),
		namespaces: core.Namespaces().Lister(), accounts: core.ServiceAccounts().Lister(), bundles: core.ConfigMaps().Lister(),
		loop: loop.New(Name, log),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := loop.On(c.loop, c.namespaceInformer, func(_, after *corev1.Namespace) {
		if after != nil {
			c.loop.Add(after.Name)
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.accountInformer, func(before, after *corev1.ServiceAccount) {
		if after == nil && before.Name == account {
			c.loop.Add(before.Namespace)
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.bundleInformer, func(before, after *corev1.ConfigMap) {
		if after == nil {
			after = before
		}
		if after.Name == bundle {
			c.loop.Add(after.Namespace)
		}
	})
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

func (c *Controller) sync(ctx context.Context, key string) error {
	w := world{ca: c.ca}
	var err error
	if w.namespace, err = c.namespaces.Get(key); err != nil {
		return absent(err)
	}
	if w.account, err = c.accounts.ServiceAccounts(key).Get(account); absent(err) != nil {
		return err
	}
	if w.bundle, err = c.bundles.ConfigMaps(key).Get(bundle); absent(err) != nil {
		return err
	}
	todo := plan(w)
	if todo.account != nil {
		_, err := c.client.CoreV1().ServiceAccounts(key).Create(ctx, todo.account, metav1.CreateOptions{})
		if settled(err) != nil {
			return err
		}
	}
	if todo.create != nil {
		_, err := c.client.CoreV1().ConfigMaps(key).Create(ctx, todo.create, metav1.CreateOptions{})
		return settled(err)
	}
	if todo.update != nil {
		_, err := c.client.CoreV1().ConfigMaps(key).Update(ctx, todo.update, metav1.UpdateOptions{})
		return err
	}
	return nil
}

// settled drops the errors of a cache that is behind.
func settled(err error) error {
	if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

func absent(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
