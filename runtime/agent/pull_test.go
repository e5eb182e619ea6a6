package agent_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestImagePullSecrets pulls from a registry that lets in whom it knows.
func TestImagePullSecrets(t *testing.T) {
	l := newLab(t)
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "user" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	img, err := random.Image(1024, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(host + "/team/private:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: "user", Password: "secret"})); err != nil {
		t.Fatal(err)
	}
	for secret, password := range map[string]string{"good": "secret", "bad": "wrong"} {
		if _, err := l.client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: secret, Namespace: "default"}, Type: corev1.SecretTypeDockerConfigJson,
			Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{"` + host + `":{"username":"user","password":"` + password + `"}}}`)},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	private := func(secrets ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[0].Image = ref.String()
			for _, s := range secrets {
				p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
			}
		}
	}
	waits := func(p *corev1.Pod, reason string) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == reason
	}
	l.pod("stranger", private())
	l.wait("stranger", "to be kept out", func(p *corev1.Pod) bool { return waits(p, "ErrImagePull") || waits(p, "ImagePullBackOff") })
	l.pod("wrong", private("bad"))
	l.wait("wrong", "to be kept out", func(p *corev1.Pod) bool { return waits(p, "ErrImagePull") || waits(p, "ImagePullBackOff") })
	l.pod("known", private("missing", "bad", "good"))
	p := l.wait("known", "to have its image", func(p *corev1.Pod) bool { // which holds no program to run
		s := p.Status.ContainerStatuses
		return len(s) == 1 && (s[0].ImageID != "" || waits(p, "CreateContainerConfigError"))
	})
	t.Logf("%+v", p.Status.ContainerStatuses[0].State)
	for _, name := range []string{"stranger", "wrong", "known"} {
		l.delete(name, 1)
	}
	l.clean()
}
