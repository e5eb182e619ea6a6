package tokensecret

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
)

// actions is what to do with a Secret.
type actions struct {
	remove bool
	update *corev1.Secret
	token  bool // update lacks a token, which the API has to make
}

// plan compares a Secret with the account it names, which is nil if there is none.
func plan(secret *corev1.Secret, account *corev1.ServiceAccount, ca string) actions {
	if secret.Annotations[corev1.ServiceAccountNameKey] == "" || secret.DeletionTimestamp != nil {
		return actions{}
	}
	if account == nil || !names(secret, account) {
		return actions{remove: true}
	}
	wanted := map[string]string{corev1.ServiceAccountNamespaceKey: secret.Namespace}
	if ca != "" {
		wanted[corev1.ServiceAccountRootCAKey] = ca
	}
	a := actions{token: len(secret.Data[corev1.ServiceAccountTokenKey]) == 0}
	update := secret.DeepCopy()
	changed := a.token || update.Annotations[corev1.ServiceAccountUIDKey] == ""
	update.Annotations = maps.Clone(update.Annotations)
	update.Annotations[corev1.ServiceAccountUIDKey] = string(account.UID)
	if update.Data == nil {
		update.Data = map[string][]byte{}
	}
	for key, value := range wanted {
		if string(update.Data[key]) != value {
			update.Data[key] = []byte(value)
			changed = true
		}
	}
	if changed {
		a.update = update
	}
	return a
}

// names says whether the Secret is about this account, not an earlier one of its name.
func names(secret *corev1.Secret, account *corev1.ServiceAccount) bool {
	uid := secret.Annotations[corev1.ServiceAccountUIDKey]
	return uid == "" || uid == string(account.UID)
}
