package apiserver

import (
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// told keeps the warnings that a client was given.
type told struct {
	mu   sync.Mutex // clients may answer at once
	said []string
}

func (w *told) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, text)
}

func (w *told) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	said := strings.Join(w.said, "\n")
	w.said = nil
	return said
}

// TestWarnings wants of each sample what a kube-apiserver v1.37.2 says of it.
func TestWarnings(t *testing.T) {
	f := newFixture(t)
	cfg, warnings := jsonConfig(f.server), &told{}
	cfg.WarningHandler = warnings
	var err error
	if f.client, err = dynamic.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	for _, sample := range documents(t, "warnings.yaml") {
		annotations := sample.GetAnnotations()
		want := annotations["want"]
		delete(annotations, "want")
		sample.SetAnnotations(annotations)
		t.Run(sample.GetKind()+"/"+sample.GetName(), func(t *testing.T) {
			r, _ := f.resource(t, sample.GroupVersionKind())
			_, err := r.Create(t.Context(), sample, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if got := warnings.take(); err != nil || got != want {
				t.Error(err)
				t.Errorf("told\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestWarningsOfChanges wants a template warned of when it is new or has changed, and not with
// each label that somebody sets.
func TestWarningsOfChanges(t *testing.T) {
	f := newFixture(t)
	cfg, warnings := jsonConfig(f.server), &told{}
	cfg.WarningHandler = warnings
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	templates := c.CoreV1().ReplicationControllers("default")
	spec := corev1.PodSpec{
		Containers:  []corev1.Container{{Name: "a", Image: "a"}},
		HostAliases: []corev1.HostAlias{{IP: "1.2.3.4"}, {IP: "1.2.3.4"}},
	}
	rc, err := templates.Create(t.Context(), &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec:       corev1.ReplicationControllerSpec{Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: spec}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const want = `spec.template.spec.hostAliases[1].ip: duplicate ip "1.2.3.4"`
	if got := warnings.take(); got != want {
		t.Errorf("create: told %q", got)
	}
	rc.Labels = map[string]string{"x": "y"}
	if rc, err = templates.Update(t.Context(), rc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := warnings.take(); got != "" {
		t.Errorf("a label: told %q", got)
	}
	rc.Spec.Template.Spec.Containers[0].Image = "b"
	if _, err = templates.Update(t.Context(), rc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := warnings.take(); got != want {
		t.Errorf("the template: told %q", got)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: spec}
	if pod, err = c.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := warnings.take(); got != `spec.hostAliases[1].ip: duplicate ip "1.2.3.4"` {
		t.Errorf("a pod: told %q", got)
	}
	pod.Spec.Containers[0].Image = "b"
	if _, err = c.CoreV1().Pods("default").Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := warnings.take(); got != "" {
		t.Errorf("a change of a pod: told %q", got)
	}
}
