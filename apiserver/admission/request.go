package admission

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
)

// errNotReady is told while a plugin has not read yet what it decides by.
var errNotReady = errors.New("not yet ready to handle request")

// podOf is the pod that a request writes, nil for a request about something else.
func podOf(a admission.Attributes) (*corev1.Pod, error) {
	if a.GetResource().GroupResource() != corev1.Resource("pods") {
		return nil, nil
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok && a.GetSubresource() == "" && a.GetOperation() != admission.Delete {
		return nil, apierrors.NewBadRequest("Resource was marked with kind Pod but was unable to be converted")
	}
	return pod, nil
}

// newPod is the pod that a request creates, nil for any other request.
func newPod(a admission.Attributes) (*corev1.Pod, error) {
	if a.GetOperation() != admission.Create || a.GetSubresource() != "" {
		return nil, nil
	}
	return podOf(a)
}

// pause waits, and reports false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
