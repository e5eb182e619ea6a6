package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// objects reads what pods refer to, from the local replica: it answers with no
// quorum in reach, and a moment's age does no harm, since volumes are looked at again.
type objects struct {
	client     kubernetes.Interface
	nodeName   string
	localPaths *localPaths

	mu     sync.Mutex // protects what follows
	tokens map[string]token
	asking map[string]chan struct{} // closed when whoever asks for the token has an answer
}

type token struct {
	value string
	renew time.Time
	ends  time.Time
}

var local = metav1.GetOptions{ResourceVersion: "0"}

func (o *objects) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return o.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, local)
}

func (o *objects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return o.client.CoreV1().Secrets(namespace).Get(ctx, name, local)
}

// RuntimeHandler implements pod.Objects. What the replica does not know yet is asked of the latest state.
func (o *objects) RuntimeHandler(ctx context.Context, class string) (string, error) {
	rc, err := o.client.NodeV1().RuntimeClasses().Get(ctx, class, local)
	if apierrors.IsNotFound(err) {
		rc, err = o.client.NodeV1().RuntimeClasses().Get(ctx, class, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err):
		return "", err
	case err != nil:
		return "", fmt.Errorf("failed to lookup RuntimeClass %s: %w", class, err)
	}
	return rc.Handler, nil
}

// Token returns a token of the pod's service account, the same until four
// fifths of its life are over, then a new one. Those who want it at the same time ask once.
func (o *objects) Token(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error) {
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	key := fmt.Sprintf("%s/%s/%d", pod.UID, p.Audience, ptr.Deref(p.ExpirationSeconds, 0))
	have, fresh, done, err := o.known(ctx, key)
	if err != nil || fresh {
		return have.value, err
	}
	defer done()
	now := time.Now()
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: p.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if p.Audience != "" {
		req.Spec.Audiences = []string{p.Audience}
	}
	got, err := o.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, req, metav1.CreateOptions{})
	if err != nil {
		if now.Before(have.ends) {
			return have.value, nil // good enough while the API is away
		}
		return "", err
	}
	ends := got.Status.ExpirationTimestamp.Time
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tokens == nil {
		o.tokens = map[string]token{}
	}
	for k, t := range o.tokens { // of pods that are gone
		if now.After(t.ends) {
			delete(o.tokens, k)
		}
	}
	o.tokens[key] = token{value: got.Status.Token, renew: now.Add(ends.Sub(now) * 4 / 5), ends: ends}
	return got.Status.Token, nil
}

// known finds a token that need not be renewed yet. If there is none, the caller is who asks for one,
// and calls done then.
func (o *objects) known(ctx context.Context, key string) (have token, fresh bool, done func(), err error) {
	for {
		o.mu.Lock()
		have := o.tokens[key]
		if time.Now().Before(have.renew) {
			o.mu.Unlock()
			return have, true, nil, nil
		}
		other := o.asking[key]
		if other == nil {
			mine := make(chan struct{})
			if o.asking == nil {
				o.asking = map[string]chan struct{}{}
			}
			o.asking[key] = mine
			o.mu.Unlock()
			return have, false, func() {
				o.mu.Lock()
				defer o.mu.Unlock()
				delete(o.asking, key)
				close(mine)
			}, nil
		}
		o.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return token{}, false, nil, ctx.Err()
		}
	}
}
