// Package tokensecret keeps Secrets of the type service-account-token: one that
// names a ServiceAccount gets a token of it, one whose account is gone goes.
//
// plan is pure; the token comes from the API's TokenRequest, bound to the Secret, so
// that it ends with it. A Secret is handled by one worker at a time. Only
// controllers imports this package.
package tokensecret

import (
	"context"
	"log/slog"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs.
const (
	Name    = "tokensecret"
	workers = 2
	// lifetime is the longest the API gives, 136 years: such a token ends with its
	// Secret, or its account.
	lifetime = 1 << 32
)

// Controller keeps token Secrets.
type Controller struct {
	client   kubernetes.Interface
	ca       string
	secrets  corelisters.SecretLister
	accounts corelisters.ServiceAccountLister
	loop     *loop.Loop

	secretInformer, accountInformer cache.SharedIndexInformer
}

// New makes the controller on shared informers. ca is PEM that proves the API server.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, ca string, log *slog.Logger) *Controller {
	secrets, accounts := shared.Core().V1().Secrets(), shared.Core().V1().ServiceAccounts()
	return &Controller{
		client: client, ca: ca, secrets: secrets.Lister(), accounts: accounts.Lister(), loop: loop.New(Name, log),
		secretInformer: secrets.Informer(), accountInformer: accounts.Informer(),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := loop.On(c.loop, c.secretInformer, func(_, after *corev1.Secret) {
		if after != nil && after.Type == corev1.SecretTypeServiceAccountToken {
			c.loop.AddObject(after)
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.accountInformer, func(before, after *corev1.ServiceAccount) {
		account := after
		if account == nil {
			account = before
		}
		if before != nil && after != nil && before.UID == after.UID {
			return
		}
		secrets, err := c.secrets.Secrets(account.Namespace).List(labels.Everything())
		if err != nil {
			return // a lister that reads a cache does not fail
		}
		for _, s := range secrets {
			if s.Type == corev1.SecretTypeServiceAccountToken && s.Annotations[corev1.ServiceAccountNameKey] == account.Name {
				c.loop.AddObject(s)
			}
		}
	})
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	secret, err := c.secrets.Secrets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	account, err := c.account(ctx, secret)
	if err != nil {
		return err
	}
	a := plan(secret, account, c.ca)
	switch {
	case a.remove:
		return c.client.CoreV1().Secrets(namespace).Delete(ctx, name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion},
		})
	case a.update == nil:
		return nil
	case a.token:
		token, err := c.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account.Name, &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{
				ExpirationSeconds: ptr.To[int64](lifetime),
				BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1", Name: name, UID: secret.UID},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		a.update.Data[corev1.ServiceAccountTokenKey] = []byte(token.Status.Token)
	}
	_, err = c.client.CoreV1().Secrets(namespace).Update(ctx, a.update, metav1.UpdateOptions{})
	return err
}

// account is the ServiceAccount a Secret names. That there is none is not taken from
// a cache: the Secret would be deleted for it.
func (c *Controller) account(ctx context.Context, secret *corev1.Secret) (*corev1.ServiceAccount, error) {
	name := secret.Annotations[corev1.ServiceAccountNameKey]
	if name == "" {
		return nil, nil
	}
	account, err := c.accounts.ServiceAccounts(secret.Namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && !names(secret, account) {
		account, err = c.client.CoreV1().ServiceAccounts(secret.Namespace).Get(ctx, name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return account, err
}
