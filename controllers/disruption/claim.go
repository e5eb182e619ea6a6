package disruption

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"kontiki/controllers/podview"
)

// staleAfter is how long a pod may say that it is going (its condition DisruptionTarget)
// without being deleted; after that what it says is taken back. Upstream's time.
const staleAfter = 2 * time.Minute

// claimsToGo says whether a pod says that it is going though nobody deletes it, and how
// long that is let stand. What an agent says of its own node's pods stands: it may take
// any time to stop them. So does what a pod that has ended says.
func claimsToGo(pod *corev1.Pod, now time.Time) (wait time.Duration, claims bool) {
	c := podview.Condition(pod, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet || !podview.Active(pod) {
		return 0, false
	}
	return max(c.LastTransitionTime.Add(staleAfter).Sub(now), 0), true
}

// syncPod takes back what a pod says of its end when that did not come.
func (c *Controller) syncPod(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	wait, claims := claimsToGo(pod, c.now())
	if !claims {
		return nil
	}
	if wait > 0 {
		c.loop.AddAfter(podKey+key, wait)
		return nil
	}
	update := pod.DeepCopy()
	*podview.Condition(update, corev1.DisruptionTarget) = corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(c.now()),
	}
	_, err = c.client.CoreV1().Pods(namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
	return err
}
