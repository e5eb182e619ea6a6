package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"kontiki/raftstore/raftstoretest"
)

// TestTokens follows a token from its request to its end.
func TestTokens(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, raftstoretest.New(t), func(c *Config) { c.ServiceAccountKey = key })
	ctx, root := t.Context(), clientOf(t, s, admin)
	defaultNamespace(t, root)
	ready(t, s)
	sa, err := root.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod, err := root.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec:       corev1.PodSpec{ServiceAccountName: "robot", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	request := func(spec authenticationv1.TokenRequestSpec) (string, error) {
		got, err := root.CoreV1().ServiceAccounts("default").CreateToken(ctx, "robot", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		if got.Status.ExpirationTimestamp.IsZero() {
			t.Error("the token does not say when it ends")
		}
		return got.Status.Token, nil
	}
	token, err := request(authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: pod.UID},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		spec authenticationv1.TokenRequestSpec
		want func(error) bool
	}{
		{authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64)}, apierrors.IsInvalid},
		{authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "gone"}}, apierrors.IsNotFound},
		{authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "other"}}, apierrors.IsConflict},
		{authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "ConfigMap", Name: "p"}}, apierrors.IsBadRequest},
	} {
		if _, err := request(c.spec); !c.want(err) {
			t.Errorf("%+v: %v", c.spec, err)
		}
	}

	server := httptest.NewServer(s.Handler())
	defer server.Close()
	whoIs := func(token string) (*authenticationv1.UserInfo, error) {
		c, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, BearerToken: token})
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		return &r.Status.UserInfo, nil
	}
	who, err := whoIs(token)
	if err != nil || who.Username != "system:serviceaccount:default:robot" || who.UID != string(sa.UID) ||
		strings.Join(who.Groups, " ") != "system:serviceaccounts system:serviceaccounts:default system:authenticated" ||
		who.Extra["authentication.kubernetes.io/pod-name"][0] != "p" {
		t.Fatalf("%+v %v", who, err)
	}
	forged := token[:len(token)-8] + "AAAAAAAA"
	if _, err := whoIs(forged); !apierrors.IsUnauthorized(err) {
		t.Errorf("forged: %v", err)
	}
	elsewhere, err := request(authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := whoIs(elsewhere); !apierrors.IsUnauthorized(err) {
		t.Errorf("for another audience: %v", err)
	}
	review := func(token string, audiences ...string) authenticationv1.TokenReviewStatus {
		r, err := root.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	if r := review(token); !r.Authenticated || r.User.Username != who.Username {
		t.Errorf("%+v", r)
	}
	if r := review(elsewhere, "vault", "bank"); !r.Authenticated || len(r.Audiences) != 1 || r.Audiences[0] != "vault" {
		t.Errorf("%+v", r)
	}
	if r := review(elsewhere); r.Authenticated {
		t.Errorf("%+v", r)
	}

	anyone := clientOf(t, s, &user.DefaultInfo{Name: "jane"})
	if _, err := anyone.Discovery().RESTClient().Get().AbsPath("/openid/v1/jwks").DoRaw(ctx); !apierrors.IsForbidden(err) {
		t.Errorf("keys for everybody: %v", err)
	}
	robot := clientOf(t, s, &user.DefaultInfo{Name: who.Username, Groups: who.Groups})
	for _, path := range []string{"/openid/v1/jwks", "/.well-known/openid-configuration"} {
		if body, err := robot.Discovery().RESTClient().Get().AbsPath(path).DoRaw(ctx); err != nil || !strings.HasPrefix(string(body), "{") {
			t.Errorf("%s: %s %v", path, body, err)
		}
	}
	resp, err := http.Get(server.URL + "/openid/v1/jwks")
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("%v %v", resp, err)
	}
	resp.Body.Close()

	now := int64(0)
	if err := root.CoreV1().Pods("default").Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token ends with its pod", func(context.Context) (bool, error) {
		_, err := whoIs(token)
		return apierrors.IsUnauthorized(err), nil
	})
}

// withAccountKey lets a server issue tokens.
func withAccountKey(t *testing.T) func(*Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.ServiceAccountKey = key }
}
