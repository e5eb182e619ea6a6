package apiserver

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/raftstore/raftstoretest"
)

func simplePod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	for _, f := range change {
		f(pod)
	}
	return pod
}

// TestPodsHaveAccounts wants of each pod what its account brings along.
func TestPodsHaveAccounts(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	ctx, core := t.Context(), c.CoreV1()
	no := false
	for _, account := range []corev1.ServiceAccount{
		{ObjectMeta: metav1.ObjectMeta{Name: "puller"}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "quiet"}, AutomountServiceAccountToken: &no},
		{ObjectMeta: metav1.ObjectMeta{Name: "strict", Annotations: map[string]string{"kubernetes.io/enforce-mountable-secrets": "true"}}, Secrets: []corev1.ObjectReference{{Name: "mine"}}},
	} {
		if _, err := core.ServiceAccounts("default").Create(ctx, &account, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create := func(pod *corev1.Pod) (*corev1.Pod, error) {
		return core.Pods("default").Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	}
	pod, err := create(simplePod("plain", func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "i", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}}}}
		p.Spec.Volumes = []corev1.Volume{{Name: "v"}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if pod.Spec.ServiceAccountName != "default" || pod.Spec.DeprecatedServiceAccount != "default" || len(pod.Spec.Volumes) != 2 {
		t.Fatalf("%+v", pod.Spec)
	}
	volume, mounts := pod.Spec.Volumes[1], pod.Spec.Containers[0].VolumeMounts
	if !strings.HasPrefix(volume.Name, "kube-api-access-") || len(mounts) != 1 || mounts[0].Name != volume.Name || !mounts[0].ReadOnly ||
		mounts[0].MountPath != "/var/run/secrets/kubernetes.io/serviceaccount" || len(pod.Spec.InitContainers[0].VolumeMounts) != 1 {
		t.Errorf("%+v, mounted %+v", volume, mounts)
	}
	sources := volume.Projected.Sources
	if *volume.Projected.DefaultMode != 0o644 || len(sources) != 3 || *sources[0].ServiceAccountToken.ExpirationSeconds != 3607 ||
		sources[1].ConfigMap.Name != "kube-root-ca.crt" || sources[2].DownwardAPI.Items[0].FieldRef.FieldPath != "metadata.namespace" {
		t.Errorf("%+v", volume.Projected)
	}

	if pod, err = create(simplePod("pulls", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "puller" })); err != nil || len(pod.Spec.ImagePullSecrets) != 1 {
		t.Errorf("%v %v", pod, err)
	}
	if pod, err = create(simplePod("quiet", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "quiet" })); err != nil || len(pod.Spec.Volumes) != 0 {
		t.Errorf("%v %v", pod, err)
	}
	yes := true
	if pod, err = create(simplePod("loud", func(p *corev1.Pod) {
		p.Spec.ServiceAccountName, p.Spec.AutomountServiceAccountToken = "quiet", &yes
	})); err != nil || len(pod.Spec.Volumes) != 1 {
		t.Errorf("%v %v", pod, err)
	}
	env := func(secret string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = "strict"
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "E", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: "k",
			}}}}
		}
	}
	if _, err = create(simplePod("allowed", env("mine"))); err != nil {
		t.Error(err)
	}
	refused(t, second(create(simplePod("other", env("theirs")))), `container c with envVar E referencing secret.secretName="theirs" is not allowed because service account strict does not reference that secret`)
	refused(t, second(create(simplePod("nobody", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "nobody" }))),
		`pods "nobody" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found`)
	refused(t, second(create(simplePod("mirror", func(p *corev1.Pod) {
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		p.Spec.ServiceAccountName, p.Spec.NodeName = "default", "n"
	}))), "a mirror pod may not reference service accounts")
}

// TestNewNamespaceIsWaitedFor creates a pod a moment before its account.
func TestNewNamespaceIsWaitedFor(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	ctx := t.Context()
	if _, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "new"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.CoreV1().Pods("new").Create(context.WithoutCancel(ctx), simplePod("p"), metav1.CreateOptions{})
		done <- err
	}()
	if _, err := c.CoreV1().ServiceAccounts("new").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }

// refused wants a request to be forbidden with a message that contains text.
func refused(t *testing.T, err error, text string) {
	t.Helper()
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want a refusal: %s", err, text)
	}
}
