package agent_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// BenchmarkBoundToRunning is the time from a pod's being bound to this node to
// its being Running in the API, with a real shim, its image present and an API
// without latency. One pod at a time.
func BenchmarkBoundToRunning(b *testing.B) {
	l := newLab(b)
	pods := l.client.CoreV1().Pods("default")
	w, err := pods.Watch(b.Context(), metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	running := make(chan string, 16)
	go func() {
		seen := map[string]bool{}
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok && e.Type == watch.Modified && p.Status.Phase == corev1.PodRunning && !seen[p.Name] {
				seen[p.Name] = true
				running <- p.Name
			}
		}
	}()
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprintf("p%d", i)
		began := time.Now()
		if _, err := pods.Create(b.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name)},
			Spec: corev1.PodSpec{NodeName: "n1", RestartPolicy: corev1.RestartPolicyNever,
				Containers: []corev1.Container{{Name: "c", Image: "probe:1", ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"run"}}}},
		}, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		<-running
		took = append(took, time.Since(began))
		b.StopTimer()
		l.delete(name, 1)
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
