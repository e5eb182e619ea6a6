package pod

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

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

// credentials are those of the pod's imagePullSecrets, then the node's own, that
// fit an image, the most specific first. Secrets that cannot be read are told and left out, as
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
	own, err := fileCredentials(w.deps.NodeCredentials)
	if err != nil {
		w.log.Warn("cannot read the node's credentials for registries", "error", err)
	}
	for _, c := range own {
		if scopeFits(c.scope, full) {
			fit = append(fit, c)
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
		var file dockerConfig
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
	list, err := credentialsOf(auths)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", s.Name, err)
	}
	return list, nil
}

// dockerConfig is docker's configuration file.
type dockerConfig struct {
	Auths map[string]dockerAuth `json:"auths"`
}

// fileCredentials reads such a file; a missing one holds none.
func fileCredentials(path string) ([]credential, error) {
	b, err := os.ReadFile(path)
	if path == "" || errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var file dockerConfig
	if err := json.Unmarshal(b, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	list, err := credentialsOf(file.Auths)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

func credentialsOf(auths map[string]dockerAuth) ([]credential, error) {
	var list []credential
	for scope, a := range auths {
		if a.Auth != "" && a.Username == "" {
			plain, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				return nil, fmt.Errorf("auth of %s is not base64", scope)
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

// pull fetches an image with the first of the credentials that is let in.
func (w *Worker) pull(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (img image.Image, err error) {
	ref, progress := c.Image, w.progress(pod, c)
	fit := w.credentials(ctx, pod, ref)
	if len(fit) == 0 {
		return w.deps.Images.Pull(ctx, ref, nil, progress)
	}
	for _, c := range fit {
		if img, err = w.deps.Images.Pull(ctx, ref, authn.FromConfig(c.auth), progress); err == nil || ctx.Err() != nil {
			return img, err
		}
	}
	return img, err
}

// progressTold is how often one hears of a pull that takes long.
const progressTold = 10 * time.Second

// progress tells of a pull under way now and then.
func (w *Worker) progress(pod *corev1.Pod, c *corev1.Container) image.Progress {
	var mu sync.Mutex // protects next
	next := w.deps.Now().Add(progressTold)
	return func(done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		if now := w.deps.Now(); done < total && !now.Before(next) {
			next = now.Add(progressTold)
			w.deps.API.Event(pod, c.Name, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q: %d of %d bytes", c.Image, done, total))
		}
	}
}
