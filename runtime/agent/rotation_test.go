package agent_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"kontiki/runtime/shim"
	"kontiki/runtime/shim/shimtest"
)

// TestARenewedTokenReachesTheContainer: when a token's time is over, the next look at the volumes
// (here, after a change of what the pod shows of itself) puts a new one before the running program.
func TestARenewedTokenReachesTheContainer(t *testing.T) {
	l := prepareLab(t)
	var issued atomic.Int64
	l.client.(*fake.Clientset).PrependReactor("create", "serviceaccounts", func(ktesting.Action) (bool, runtime.Object, error) {
		return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{
			Token: fmt.Sprint("token-", issued.Add(1)), ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Second)),
		}}, nil
	})
	l.begin()
	t.Cleanup(func() { l.stop() })
	l.pod("p", with(corev1.Volume{Name: "own", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
	}}}}), "run")
	l.wait("p", "to be ready", ready)
	reads := func(file string) string {
		t.Helper()
		_, out, err := l.env.Client.ExecSync(l.env.Context(), "uid-p.c.0", shim.ExecSpec{Args: []string{"/probe", "file", "/own/" + file}}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	first := reads("token")
	if first != "token-1" {
		t.Errorf("the container reads %q at first", first)
	}
	changes := 0
	shimtest.Eventually(t, "another token", func() bool {
		changes++
		p, err := l.client.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
		if err != nil {
			return false
		}
		p.Labels = map[string]string{"change": fmt.Sprint(changes)}
		if _, err := l.client.CoreV1().Pods("default").Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
			return false
		}
		return reads("token") != first
	})
	l.delete("p", 1)
	l.clean()
}
