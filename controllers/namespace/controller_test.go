package namespace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestConditions(t *testing.T) {
	now := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	texts := func(conditions []corev1.NamespaceCondition) (all []string) {
		for _, c := range conditions {
			all = append(all, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
		}
		return all
	}
	troubled := outcome{
		discovery: []error{errors.New("metrics.k8s.io/v1beta1: no answer")},
		kinds: []found{
			{resource: podsResource, remaining: 2, finalizers: map[string]int{"a/b": 1}},
			{resource: corev1.SchemeGroupVersion.WithResource("secrets"), failure: errors.New("refused")},
		},
	}
	first := conditionsOf(nil, troubled, now)
	want := []string{
		"NamespaceDeletionDiscoveryFailure=True DiscoveryFailed: Discovery failed for some groups, 1 remaining: metrics.k8s.io/v1beta1: no answer",
		"NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed",
		"NamespaceDeletionContentFailure=True ContentDeletionFailed: Failed to delete all resource types, 1 remaining: refused",
		"NamespaceContentRemaining=True SomeResourcesRemain: Some resources are remaining: pods. has 2 resource instances",
		"NamespaceFinalizersRemaining=True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: a/b in 1 resource instances",
	}
	if got := texts(first); !slices.Equal(got, want) {
		t.Errorf("conditions:\n%q\nwant:\n%q", got, want)
	}
	if troubled.done() || !(outcome{}).done() {
		t.Error("done is wrong")
	}
	for _, c := range conditionsOf(first, outcome{}, now) {
		if c.Status != corev1.ConditionFalse {
			t.Errorf("trouble is over, and still: %+v", c)
		}
	}
}

// kinds is discovery of Pods and ConfigMaps.
type kinds struct{}

func (kinds) ServerPreferredNamespacedResourcesWithContext(context.Context) ([]*metav1.APIResourceList, error) {
	verbs := metav1.Verbs{"delete", "list"}
	return []*metav1.APIResourceList{{GroupVersion: "v1", APIResources: []metav1.APIResource{
		{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: verbs},
		{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: verbs},
	}}}, nil
}

func object(kind, name string) runtime.Object {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: kind},
		ObjectMeta: metav1.ObjectMeta{Namespace: "doomed", Name: name},
	}
}

func TestEmptiesPodsFirstAndFinalizes(t *testing.T) {
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	content := metadatafake.NewSimpleMetadataClient(scheme, object("ConfigMap", "c1"), object("Pod", "p1"), object("Pod", "p2"))
	var deleted []string
	content.PrependReactor("delete", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		deleted = append(deleted, a.(clienttesting.DeleteAction).GetName())
		return false, nil, nil
	})
	doomed := &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "doomed", DeletionTimestamp: &metav1.Time{Time: time.Unix(1, 0)}, Finalizers: []string{"test/keeps"}},
		Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
	}
	client := fake.NewClientset(doomed)
	ctx, cancel := context.WithCancel(context.Background())
	shared := informers.NewSharedInformerFactory(client, 0)
	c := New(client, content, kinds{}, shared, slog.New(slog.NewTextHandler(io.Discard, nil)), time.Now)
	shared.Start(ctx.Done())
	stopped := make(chan error, 1)
	go func() { stopped <- c.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		shared.Shutdown()
		if len(deleted) != 3 || deleted[2] != "c1" {
			t.Errorf("deleted %v, want both pods before c1", deleted)
		}
	}()
	finalized := func() bool {
		ns, err := client.CoreV1().Namespaces().Get(ctx, "doomed", metav1.GetOptions{})
		return err == nil && len(ns.Spec.Finalizers) == 0 && ns.Status.Phase == corev1.NamespaceTerminating
	}
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !finalized() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited 20 s for the namespace to be finalized")
		}
	}
}
