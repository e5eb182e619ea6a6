package tokens

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Labels of Secrets of type kubernetes.io/service-account-token, upstream's. Who uses
// such tokens still can be seen, and can be stopped.
const (
	lastUsedLabel     = "kubernetes.io/legacy-token-last-used"
	invalidSinceLabel = "kubernetes.io/legacy-token-invalid-since"
	labelDate         = "2006-01-02"
)

// storedLife is how long tokens live that are made to lie in a Secret: they have no end
// of their own, as far as a TokenRequest can say that.
const storedLife = 1 << 32 // seconds

// stored judges a token that is bound to a Secret. One that was made to lie in it is
// good as long as it does: whoever takes it out, or lets another be made, has ended it.
func (i *Issuer) stored(ctx context.Context, secret *corev1.Secret, c *claims, token string) error {
	if secret.Type != corev1.SecretTypeServiceAccountToken {
		return nil
	}
	if !holds(secret, token) {
		if c.Expires-c.IssuedAt < storedLife {
			return nil // it has an end of its own, and lies elsewhere
		}
		// It may have come into the Secret since this node's replica was written.
		var err error
		if secret, err = i.client.CoreV1().Secrets(secret.Namespace).Get(ctx, secret.Name, metav1.GetOptions{}); err != nil {
			return err
		}
	}
	held := holds(secret, token)
	if held {
		i.uses.note(secret, i.now())
	}
	if secret.Labels[invalidSinceLabel] != "" {
		return fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '%s' label from the secret to temporarily allow use of this token",
			secret.Namespace, secret.Name, secret.Namespace, secret.Annotations[corev1.ServiceAccountNameKey], invalidSinceLabel)
	}
	if !held {
		return errors.New("Token does not match server's copy") //nolint:staticcheck // upstream's words
	}
	return nil
}

func holds(secret *corev1.Secret, token string) bool {
	return subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) == 1
}
