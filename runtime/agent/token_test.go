package agent

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
)

// TestTokensAreRenewed: a pod has the same token until four fifths of its life are over, then a new
// one; while the API is away, the old one for as long as it holds.
func TestTokensAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = time.Hour
		client, issued, away := fake.NewClientset(), 0, error(nil)
		client.PrependReactor("create", "serviceaccounts", func(a ktesting.Action) (bool, runtime.Object, error) {
			if a.GetSubresource() != "token" || away != nil {
				return true, nil, away
			}
			issued++
			return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{
				Token: fmt.Sprint("token-", issued), ExpirationTimestamp: metav1.NewTime(time.Now().Add(life)),
			}}, nil
		})
		o := &objects{client: client}
		began := time.Now()
		at := func(share float64, pod, audience, want string) {
			t.Helper()
			time.Sleep(time.Until(began.Add(time.Duration(share * float64(life)))))
			got, err := o.Token(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: pod, UID: "u"}}, &corev1.ServiceAccountTokenProjection{Audience: audience})
			if err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("after %.2f of its life: %s, want %s", share, got, want)
			}
		}
		at(0, "p", "", "token-1")
		at(0, "p", "vault", "token-2") // one for each audience
		at(0.79, "p", "", "token-1")
		at(0.81, "p", "", "token-3")
		at(0.81, "p", "vault", "token-4")
		at(1.60, "p", "", "token-3") // four fifths of the next life are over at 1.61
		away = errors.New("the API is away")
		at(1.62, "p", "", "token-3")
		at(1.80, "p", "", "token-3")
		at(1.82, "p", "", "the API is away")
		away = nil
		at(1.83, "p", "", "token-5")
	})
}

// TestATokenIsAskedForOnce: whoever wants it while it is being asked for waits for that answer.
func TestATokenIsAskedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, issued, answer := fake.NewClientset(), 0, make(chan struct{})
		client.PrependReactor("create", "serviceaccounts", func(ktesting.Action) (bool, runtime.Object, error) {
			issued++
			<-answer
			return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{Token: fmt.Sprint("token-", issued), ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))}}, nil
		})
		o := &objects{client: client}
		got := make(chan string, 3)
		for range cap(got) {
			go func() {
				token, err := o.Token(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}, &corev1.ServiceAccountTokenProjection{})
				if err != nil {
					token = err.Error()
				}
				got <- token
			}()
		}
		synctest.Wait()
		close(answer)
		for range cap(got) {
			if token := <-got; token != "token-1" {
				t.Errorf("one got %s", token)
			}
		}
	})
}
