package namespacedefaults

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Names of what each namespace has, which clients and the API rely on.
const (
	account     = "default"
	bundle      = "kube-root-ca.crt"
	bundleKey   = "ca.crt"
	description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// world is what is known of one namespace; account and bundle are nil if missing.
type world struct {
	namespace *corev1.Namespace
	account   *corev1.ServiceAccount
	bundle    *corev1.ConfigMap
	ca        string
}

// actions are the objects to write.
type actions struct {
	account *corev1.ServiceAccount // to create
	create  *corev1.ConfigMap
	update  *corev1.ConfigMap
}

func plan(w world) actions {
	var a actions
	if w.namespace.DeletionTimestamp != nil || w.namespace.Status.Phase == corev1.NamespaceTerminating {
		return a
	}
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: w.namespace.Name, Name: name}
	}
	if w.account == nil {
		a.account = &corev1.ServiceAccount{ObjectMeta: meta(account)}
	}
	switch {
	case w.ca == "":
	case w.bundle == nil:
		a.create = &corev1.ConfigMap{ObjectMeta: meta(bundle), Data: map[string]string{bundleKey: w.ca}}
		a.create.Annotations = map[string]string{"kubernetes.io/description": description}
	case len(w.bundle.Data) != 1 || w.bundle.Data[bundleKey] != w.ca || len(w.bundle.BinaryData) > 0:
		a.update = w.bundle.DeepCopy()
		a.update.Data, a.update.BinaryData = map[string]string{bundleKey: w.ca}, nil
	}
	return a
}
