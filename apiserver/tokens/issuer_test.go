package tokens

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// TestTokensOfPodsNeedNoQuorum: a node that starts again alone gives its own pods their tokens, from
// what its replica knows of them. All else that is asked for needs the latest state.
func TestTokensOfPodsNeedNoQuorum(t *testing.T) {
	client := fake.NewClientset(
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot", UID: "r"}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "1"}, Spec: corev1.PodSpec{ServiceAccountName: "robot", NodeName: "n"}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q", UID: "2"}, Spec: corev1.PodSpec{ServiceAccountName: "other"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "n"}},
	)
	client.PrependReactor("get", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if get, ok := action.(clienttesting.GetActionImpl); ok && get.GetOptions.ResourceVersion == "0" {
			return false, nil, nil
		}
		return true, nil, apierrors.NewServiceUnavailable("no quorum")
	})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := New(key, client, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ctx := request.WithNamespace(t.Context(), "default")
	pod := func(name string, uid types.UID) *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: uid}
	}
	ask := func(to *authenticationv1.BoundObjectReference) (string, error) {
		got, err := issuer.REST().(rest.NamedCreater).Create(ctx, "robot", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: to}}, nil, &metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return got.(*authenticationv1.TokenRequest).Status.Token, nil
	}
	token, err := ask(pod("p", "1"))
	if err != nil {
		t.Fatal(err)
	}
	who, ok, err := issuer.AuthenticateToken(ctx, token)
	if err != nil || !ok || who.User.GetName() != "system:serviceaccount:default:robot" || who.User.GetExtra()["authentication.kubernetes.io/pod-name"][0] != "p" {
		t.Errorf("the token is that of %+v, %v", who, err)
	}
	for what, to := range map[string]*authenticationv1.BoundObjectReference{
		"no pod": nil, "any pod of that name": pod("p", ""), "one that was before": pod("p", "0"), "one that is not known": pod("x", "1"),
		"a Node": {APIVersion: "v1", Kind: "Node", Name: "n", UID: "n"},
	} {
		if _, err := ask(to); !apierrors.IsServiceUnavailable(err) {
			t.Errorf("a token for %s: %v, want that there is no quorum", what, err)
		}
	}
	if _, err := ask(pod("q", "2")); !apierrors.IsBadRequest(err) {
		t.Errorf("a token for a pod of another account: %v", err)
	}
}
