package pod

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/image"
)

// credentials are those of the pod's imagePullSecrets, then the node's own. Secrets that
// cannot be read are told and left out, as upstream does: the image may be there for everyone.
func (w *Worker) credentials(ctx context.Context, pod *corev1.Pod) (all []image.Credential) {
	for _, s := range pod.Spec.ImagePullSecrets {
		if s.Name == "" {
			continue
		}
		secret, err := w.deps.Objects.Secret(ctx, pod.Namespace, s.Name)
		var some []image.Credential
		if err == nil {
			some, err = parseCredentials(secret)
		}
		if err != nil {
			w.deps.API.Event(pod, "", corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed: %v", s.Name, err))
			continue
		}
		all = append(all, some...)
	}
	own, err := image.FileCredentials(w.deps.NodeCredentials)
	if err != nil {
		w.log.Warn("cannot read the node's credentials for registries", "error", err)
	}
	return append(all, own...)
}

// parseCredentials reads a secret of one of docker's two types.
func parseCredentials(s *corev1.Secret) (list []image.Credential, err error) {
	key := corev1.DockerConfigJsonKey
	switch {
	case s.Data[corev1.DockerConfigJsonKey] != nil:
		list, err = image.ParseDockerConfig(s.Data[key])
	case s.Data[corev1.DockerConfigKey] != nil:
		key = corev1.DockerConfigKey
		list, err = image.ParseDockerCfg(s.Data[key])
	default:
		return nil, fmt.Errorf("secret %s holds neither %s nor %s", s.Name, corev1.DockerConfigJsonKey, corev1.DockerConfigKey)
	}
	if err != nil {
		return nil, fmt.Errorf("secret %s: %s: %w", s.Name, key, err)
	}
	return list, nil
}

// pull fetches an image with the first of the credentials that is let in.
func (w *Worker) pull(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (image.Image, error) {
	return w.deps.Images.PullAs(ctx, c.Image, w.credentials(ctx, pod), w.progress(pod, c))
}

// progressTold is how often one hears of a pull that takes long.
const progressTold = 10 * time.Second

// progress tells of a pull under way now and then.
func (w *Worker) progress(pod *corev1.Pod, c *corev1.Container) image.Progress {
	return image.Progress(func(done, total int64) {
		w.deps.API.Event(pod, c.Name, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q: %d of %d bytes", c.Image, done, total))
	}).Every(progressTold, w.deps.Now)
}
