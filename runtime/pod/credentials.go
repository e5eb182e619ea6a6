package pod

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/image"
)

// credential is how to log in where its scope matches.
type credential struct {
	scope string // host[:port][/path], each label of the host may hold wildcards
	auth  authn.AuthConfig
}

// dockerAuth is an entry of docker's configuration file.
type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // base64 of username:password
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// credentials are those of the pod's imagePullSecrets that fit an image, the
// most specific first. Secrets that cannot be read are told and left out, as
// upstream does: the image may be there for everyone.
func (w *Worker) credentials(ctx context.Context, pod *corev1.Pod, ref string) (fit []credential) {
	full, err := image.Normalize(ref)
	if err != nil {
		return nil
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		if s.Name == "" {
			continue
		}
		secret, err := w.deps.Objects.Secret(ctx, pod.Namespace, s.Name)
		var all []credential
		if err == nil {
			all, err = parseCredentials(secret)
		}
		if err != nil {
			w.deps.API.Event(pod, "", corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed: %v", s.Name, err))
			continue
		}
		for _, c := range all {
			if scopeFits(c.scope, full) {
				fit = append(fit, c)
			}
		}
	}
	slices.SortStableFunc(fit, func(a, b credential) int { return cmp.Compare(len(b.scope), len(a.scope)) })
	return fit
}

// parseCredentials reads a secret of one of docker's two types.
func parseCredentials(s *corev1.Secret) ([]credential, error) {
	var auths map[string]dockerAuth
	switch {
	case s.Data[corev1.DockerConfigJsonKey] != nil:
		var file struct {
			Auths map[string]dockerAuth `json:"auths"`
		}
		if err := json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &file); err != nil {
			return nil, fmt.Errorf("secret %s: %s: %w", s.Name, corev1.DockerConfigJsonKey, err)
		}
		auths = file.Auths
	case s.Data[corev1.DockerConfigKey] != nil:
		if err := json.Unmarshal(s.Data[corev1.DockerConfigKey], &auths); err != nil {
			return nil, fmt.Errorf("secret %s: %s: %w", s.Name, corev1.DockerConfigKey, err)
		}
	default:
		return nil, fmt.Errorf("secret %s holds neither %s nor %s", s.Name, corev1.DockerConfigJsonKey, corev1.DockerConfigKey)
	}
	var list []credential
	for scope, a := range auths {
		if a.Auth != "" && a.Username == "" {
			plain, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				return nil, fmt.Errorf("secret %s: auth of %s is not base64", s.Name, scope)
			}
			a.Username, a.Password, _ = strings.Cut(string(plain), ":")
		}
		list = append(list, credential{cleanScope(scope), authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}})
	}
	slices.SortFunc(list, func(a, b credential) int { return strings.Compare(a.scope, b.scope) })
	return list, nil
}

// cleanScope takes from a scope what docker and older tools write around it.
func cleanScope(scope string) string {
	scope = strings.TrimPrefix(strings.TrimPrefix(scope, "https://"), "http://")
	host, rest, _ := strings.Cut(strings.Trim(scope, "/"), "/")
	if host == "index.docker.io" {
		host = "docker.io"
	}
	rest = strings.TrimPrefix(strings.TrimPrefix(rest+"/", "v1/"), "v2/")
	return strings.Trim(host+"/"+rest, "/")
}

// scopeFits: the image lies below the scope. A wildcard stands for part of one
// label of the host, as upstream has it.
func scopeFits(scope, image string) bool {
	host, below, _ := strings.Cut(scope, "/")
	imageHost, rest, _ := strings.Cut(image, "/")
	want, got := strings.Split(host, "."), strings.Split(imageHost, ".")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], got[i]); err != nil || !ok {
			return false
		}
	}
	return below == "" || rest == below || strings.HasPrefix(rest, below+"/") || strings.HasPrefix(rest, below+":") || strings.HasPrefix(rest, below+"@")
}

// pull fetches an image with the first of the pod's credentials that is let in.
func (w *Worker) pull(ctx context.Context, pod *corev1.Pod, ref string) (img image.Image, err error) {
	fit := w.credentials(ctx, pod, ref)
	if len(fit) == 0 {
		return w.deps.Images.Pull(ctx, ref, nil)
	}
	for _, c := range fit {
		if img, err = w.deps.Images.Pull(ctx, ref, authn.FromConfig(c.auth)); err == nil || ctx.Err() != nil {
			return img, err
		}
	}
	return img, err
}
