package tokens

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Labels of Secrets of type kubernetes.io/service-account-token, upstream's. Who uses
// such tokens still can be seen, and can be stopped.
const (
	lastUsedLabel     = "kubernetes.io/legacy-token-last-used"
	invalidSinceLabel = "kubernetes.io/legacy-token-invalid-since"
	labelDate         = "2006-01-02"
)

// stored judges a token that its Secret holds, as those do that have no end of their
// own. For tokens that are only bound to a Secret it has nothing to say.
func (i *Issuer) stored(ctx context.Context, secret *corev1.Secret, token string) error {
	if secret.Type != corev1.SecretTypeServiceAccountToken || string(secret.Data[corev1.ServiceAccountTokenKey]) != token {
		return nil
	}
	if secret.Labels[invalidSinceLabel] != "" {
		return fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '%s' label from the secret to temporarily allow use of this token",
			secret.Namespace, secret.Name, secret.Namespace, secret.Annotations[corev1.ServiceAccountNameKey], invalidSinceLabel)
	}
	i.noteUse(ctx, secret)
	return nil
}

// noteUse writes, once a day, that the token was used. That it cannot be written, for
// want of a quorum, keeps nobody out.
func (i *Issuer) noteUse(ctx context.Context, secret *corev1.Secret) {
	today := i.now().UTC().Format(labelDate)
	if secret.Labels[lastUsedLabel] == today {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"labels":{%q:%q}}}`, secret.UID, lastUsedLabel, today)
	_, _ = i.client.CoreV1().Secrets(secret.Namespace).Patch(ctx, secret.Name, types.MergePatchType, patch, metav1.PatchOptions{})
}
