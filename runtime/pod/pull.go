package pod

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/image"
)

// Waiting reasons of images, upstream's.
const (
	errImageNeverPull = "ErrImageNeverPull"
	errImagePull      = "ErrImagePull"
	imagePullBackOff  = "ImagePullBackOff"
	invalidImageName  = "InvalidImageName"
)

// doImage makes sure in the background that a container's image is there and unpacked.
func (w *Worker) doImage(ctx context.Context, name string) {
	spec, st := w.spec(name), &w.rec.Containers[name].Image
	if st.Reason == errImagePull { // its back-off is over; while it tries again, this is what is to be seen
		st.Reason, st.Message = imagePullBackOff, backoffMessage(spec.Image, st.Message)
	}
	st.Busy = true
	pod, attempt := w.rec.Pod, w.rec.Containers[name].Attempt
	w.jobs.Go(func() {
		reason, err := w.ensureImage(ctx, pod, spec)
		w.post(func(r *Record) {
			if c := r.Containers[name]; c.Attempt == attempt {
				w.imageDone(name, reason, err)
			}
		})
	})
}

func backoffMessage(ref, cause string) string {
	return fmt.Sprintf("Back-off pulling image %q: %s", ref, cause)
}

// imageDone notes how it went.
func (w *Worker) imageDone(name, reason string, err error) {
	c, spec := w.rec.Containers[name], w.spec(name)
	st := &c.Image
	st.Busy = false
	if err == nil {
		*st = ImageState{Ready: true}
		return
	}
	if st.Backoff == 0 {
		st.Backoff = backoffFirst
	} else {
		st.Backoff = min(2*st.Backoff, backoffMax)
	}
	st.Reason, st.Message = reason, err.Error()
	st.RetryAt = w.deps.Now().Add(st.Backoff)
	w.event(name, corev1.EventTypeWarning, "Failed", "Error: "+reason)
	if reason == errImagePull && st.Backoff > backoffFirst {
		st.Reason, st.Message = imagePullBackOff, backoffMessage(spec.Image, errImagePull+": "+err.Error())
		w.event(name, corev1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", spec.Image))
	}
}

// ensureImage finds or pulls, then unpacks. It touches no state of the worker.
func (w *Worker) ensureImage(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (reason string, err error) {
	tell := func(eventType, reason, message string) {
		w.deps.API.Event(pod, c.Name, eventType, reason, message)
	}
	policy := c.ImagePullPolicy
	if policy == "" {
		policy = corev1.PullPolicy(image.DefaultPullPolicy(c.Image))
	}
	img, err := w.deps.Images.Resolve(c.Image)
	switch {
	case errors.Is(err, image.ErrInvalidName):
		tell(corev1.EventTypeWarning, "InspectFailed", fmt.Sprintf("Failed to apply default image tag %q: %v", c.Image, err))
		return invalidImageName, fmt.Errorf("Failed to apply default image tag %q: %w", c.Image, err) //nolint:staticcheck // upstream's words
	case err != nil && !errors.Is(err, image.ErrNotFound):
		tell(corev1.EventTypeWarning, "InspectFailed", fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err))
		return "ImageInspectError", err
	case err != nil && policy == corev1.PullNever:
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
		tell(corev1.EventTypeWarning, errImageNeverPull, message)
		return errImageNeverPull, errors.New(message)
	case err == nil && policy != corev1.PullAlways:
		tell(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine", c.Image))
	default:
		tell(corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", c.Image))
		began := time.Now()
		img, err = w.pull(ctx, pod, c)
		if ctx.Err() == nil {
			w.deps.Counter.ImagePulled(img.Size, time.Since(began), err)
		}
		if err != nil {
			tell(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", c.Image, err))
			return errImagePull, err
		}
		took := since(began, time.Now())
		tell(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %s (%s including waiting). Image size: %d bytes.", c.Image, took, took, img.Size))
	}
	if err := w.deps.Images.Unpack(ctx, img); err != nil {
		tell(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to unpack image %q: %v", c.Image, err))
		return errImagePull, err
	}
	return "", nil
}
