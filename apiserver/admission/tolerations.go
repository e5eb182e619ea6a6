package admission

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"
)

// Tolerations are how long pods that say nothing else about it stay bound to a node
// that is not ready, or gone.
type Tolerations struct{ NotReady, Unreachable time.Duration }

// ShortTolerations are the default. Upstream's are five minutes: there a control plane
// may lose sight of nodes that are well. Here whoever decides has a quorum of them.
var ShortTolerations = Tolerations{NotReady: 30 * time.Second, Unreachable: 30 * time.Second}

// defaultTolerations writes them into pods.
type defaultTolerations struct {
	*admission.Handler
	Tolerations
}

func newDefaultTolerations(t Tolerations) defaultTolerations {
	return defaultTolerations{admission.NewHandler(admission.Create, admission.Update), t}
}

// Admit implements admission.MutationInterface.
func (d defaultTolerations) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "" {
		return nil
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("expected *core.Pod but got %T", a.GetObject()))
	}
	for _, of := range []struct {
		taint string
		stay  time.Duration
	}{{corev1.TaintNodeNotReady, d.NotReady}, {corev1.TaintNodeUnreachable, d.Unreachable}} {
		if tolerates(pod.Spec.Tolerations, of.taint) {
			continue
		}
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Key: of.taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(of.stay / time.Second)),
		})
	}
	return nil
}

func tolerates(tolerations []corev1.Toleration, taint string) bool {
	for _, t := range tolerations {
		if (t.Key == taint || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}
