package apiserver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"kontiki/raftstore/raftstoretest"
)

// reviewed asks the API whose a token is.
func reviewed(t *testing.T, c kubernetes.Interface, token string, audiences ...string) authenticationv1.TokenReviewStatus {
	t.Helper()
	r, err := c.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status
}

// TestTokensInSecrets is the way of long ago, which people still go: a Secret that
// holds a token. Its use is seen, and can be stopped.
func TestTokensInSecrets(t *testing.T) {
	s := startServer(t, raftstoretest.New(t), withAccountKey(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	secrets := c.CoreV1().Secrets("default")
	secret, err := secrets.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}}, Type: corev1.SecretTypeServiceAccountToken,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	long := int64(1 << 32)
	request, err := c.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &long, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: "s", UID: secret.UID},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token := request.Status.Token
	secret.Data = map[string][]byte{"token": []byte(token)}
	if secret, err = secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if status := reviewed(t, c, token); !status.Authenticated || status.User.Username != "system:serviceaccount:default:default" {
		t.Errorf("%+v", status)
	}
	if status := reviewed(t, c, token, "vault"); status.Authenticated {
		t.Error("it is believed for another audience")
	}
	eventually(t, "its use to be noted", func(ctx context.Context) (bool, error) {
		secret, err = secrets.Get(ctx, "s", metav1.GetOptions{})
		return err == nil && secret.Labels["kubernetes.io/legacy-token-last-used"] == time.Now().UTC().Format("2006-01-02"), err
	})
	secret.Data["token"] = nil
	if secret, err = secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token to end when it is taken out", func(context.Context) (bool, error) {
		status := reviewed(t, c, token)
		return !status.Authenticated && strings.Contains(status.Error, "Token does not match server's copy"), nil
	})
	secret.Data["token"] = []byte(token)
	if secret, err = secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	secret.Labels["kubernetes.io/legacy-token-invalid-since"] = "2026-01-01"
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token to be invalid", func(context.Context) (bool, error) {
		status := reviewed(t, c, token)
		return !status.Authenticated && strings.Contains(status.Error, "has been marked invalid"), nil
	})
	if err := secrets.Delete(t.Context(), "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token to end with its Secret", func(context.Context) (bool, error) {
		return !reviewed(t, c, token).Authenticated, nil
	})
}

// TestKubeletsTokensLiveLonger is about the volume kube-api-access-…: programs that
// read its token once are not locked out an hour later.
func TestKubeletsTokensLiveLonger(t *testing.T) {
	s := startServer(t, raftstoretest.New(t), withAccountKey(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	pod := mustCreatePod(t, c, simplePod("p"))
	for _, audiences := range [][]string{nil, {"vault"}} {
		seconds := int64(3607)
		got, err := c.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: &seconds, Audiences: audiences, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: pod.UID},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if told := time.Until(got.Status.ExpirationTimestamp.Time); told > 2*time.Hour {
			t.Errorf("its reader is told to come back in %v", told)
		}
		var claims struct {
			Exp   int64
			Bound struct{ WarnAfter int64 } `json:"kubernetes.io"`
		}
		body, err := base64.RawURLEncoding.DecodeString(strings.Split(got.Status.Token, ".")[1])
		if err != nil || json.Unmarshal(body, &claims) != nil {
			t.Fatal(err)
		}
		life, long := time.Until(time.Unix(claims.Exp, 0)), audiences == nil
		if (life > 300*24*time.Hour) != long || (claims.Bound.WarnAfter != 0) != long {
			t.Errorf("for %v it lives %v: %+v", audiences, life, claims)
		}
	}
}
