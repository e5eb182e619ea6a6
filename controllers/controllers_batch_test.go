package controllers

import (
	"context"
	"slices"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// endRunning lets every running pod of the default namespace succeed, as an agent does.
func (c *cluster) endRunning() {
	for _, pod := range c.pods() {
		if pod.Status.Phase != corev1.PodRunning {
			continue
		}
		pod.Status.Phase = corev1.PodSucceeded
		if _, err := c.CoreV1().Pods("default").UpdateStatus(context.Background(), &pod, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			c.t.Fatal(err)
		}
	}
}

func TestIndexedJobRunsToItsEnd(t *testing.T) {
	c, ctx := newCluster(t, node("a"), node("b")), context.Background()
	c.start()
	work := template("work")
	work.Spec.RestartPolicy = corev1.RestartPolicyNever
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "work"},
		Spec: batchv1.JobSpec{
			Completions: ptr.To[int32](4), Parallelism: ptr.To[int32](2), BackoffLimit: ptr.To[int32](6), CompletionMode: ptr.To(batchv1.IndexedCompletion),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "work"}}, Template: work,
		},
	}
	if _, err := c.BatchV1().Jobs("default").Create(ctx, j, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("four indexes completed", func() bool {
		c.endRunning()
		got, err := c.BatchV1().Jobs("default").Get(ctx, "work", metav1.GetOptions{})
		return err == nil && got.Status.CompletedIndexes == "0-3" && got.Status.Succeeded == 4 && got.Status.CompletionTime != nil &&
			slices.ContainsFunc(got.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == batchv1.JobComplete })
	})
	for _, pod := range c.pods() {
		if len(pod.Finalizers) > 0 {
			t.Errorf("pod %s still has finalizers %v", pod.Name, pod.Finalizers)
		}
	}
	if n := len(c.pods()); n != 4 {
		t.Errorf("%d pods were made for four indexes", n)
	}
}
