package authz

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// namespaced: roles in kube-system and kube-public.
func (t *Table) namespaced() {
	const system, public = metav1.NamespaceSystem, metav1.NamespacePublic
	t.give(system, "extension-apiserver-authentication-reader", "system::extension-apiserver-authentication-reader",
		rules(only(on(readers, "", "configmaps"), "extension-apiserver-authentication")),
		userSubject(user.KubeControllerManager), userSubject(user.KubeScheduler))
	t.give(system, "system:controller:bootstrap-signer", "system:controller:bootstrap-signer",
		rules(on(readers, "", "secrets")), accountSubject("bootstrap-signer"))
	t.give(system, "system:controller:cloud-provider", "system:controller:cloud-provider",
		rules(on(verbs("create", "get", "list", "watch"), "", "configmaps")), accountSubject("cloud-provider"))
	t.give(system, "system:controller:token-cleaner", "system:controller:token-cleaner",
		rules(on(verbs("get", "list", "watch", "delete"), "", "secrets"), events()), accountSubject("token-cleaner"))
	for _, component := range []string{"kube-controller-manager", "kube-scheduler"} {
		name := "system::leader-locking-" + component
		t.give(system, name, name,
			rules(on(verbs("watch"), "", "configmaps"), only(on(verbs("get", "update"), "", "configmaps"), component)),
			userSubject("system:"+component), accountSubject(component))
	}
	t.give(public, "system:controller:bootstrap-signer", "system:controller:bootstrap-signer",
		rules(on(readers, "", "configmaps"), only(on(verbs("update"), "", "configmaps"), "cluster-info"), events()),
		accountSubject("bootstrap-signer"))
	// The pod network answers names as this ConfigMap says.
	t.give(system, "kontiki:dns-config-reader", "kontiki:dns-config-reader",
		rules(only(on(readers, "", "configmaps"), "kontiki-dns")), userSubject(user.KubeProxy))
}
