package resourcequota

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
)

// served are a kind that can be counted and one that can only be made.
type served struct{ meta.RESTMapper }

func (served) Reset() {}

func (served) ServerResourcesForGroupVersionWithContext(context.Context, string) (*metav1.APIResourceList, error) {
	return &metav1.APIResourceList{APIResources: []metav1.APIResource{
		{Name: "configmaps", Verbs: metav1.Verbs{"create", "list", "watch"}}, {Name: "bindings", Verbs: metav1.Verbs{"create"}},
	}}, nil
}

// counting runs do with a controller of one quota, in a bubble of its own.
func counting(t *testing.T, do func(ctx context.Context, c *Controller, objects *metadatafake.FakeMetadataClient)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		scheme := metadatafake.NewTestScheme()
		if err := metav1.AddMetaToScheme(scheme); err != nil {
			t.Fatal(err)
		}
		one := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "one"}}
		objects := metadatafake.NewSimpleMetadataClient(scheme, one)
		mapper := meta.NewDefaultRESTMapper(nil)
		for _, kind := range []string{"ConfigMap", "Binding"} {
			mapper.Add(corev1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeNamespace)
		}
		client := fake.NewClientset()
		c := New(client, objects, served{mapper}, served{}, informers.NewSharedInformerFactory(client, 0), slog.New(slog.DiscardHandler), time.Now)
		defer func() {
			cancel()
			if err := c.Run(ctx); err != nil { // ends its queue and waits for what counts
				t.Error(err)
			}
		}()
		do(ctx, c, objects)
	})
}

func quotaOf(name corev1.ResourceName) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{name: resource.MustParse("5")}}}
}

func TestCountsWhatCanBeListed(t *testing.T) {
	counting(t, func(ctx context.Context, c *Controller, _ *metadatafake.FakeMetadataClient) {
		for name, want := range map[corev1.ResourceName]int64{"count/configmaps": 1, "count/bindings": 0, "count/unknowns.example.com": 0} {
			w, _, err := c.look(ctx, quotaOf(name))
			if err != nil || w.counts[name] != want {
				t.Errorf("%s: %d, %v; want %d", name, w.counts[name], err, want)
			}
		}
	})
}

func TestAKindThatIsNotListedHoldsNoWorker(t *testing.T) {
	counting(t, func(ctx context.Context, c *Controller, objects *metadatafake.FakeMetadataClient) {
		objects.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("out of order")
		})
		if _, _, err := c.look(ctx, quotaOf("count/configmaps")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

func TestLetsGoOfWhatNoQuotaNames(t *testing.T) {
	counting(t, func(ctx context.Context, c *Controller, _ *metadatafake.FakeMetadataClient) {
		kind := schema.GroupResource{Resource: "configmaps"}
		quotas := c.quotaInformer.GetIndexer()
		if err := quotas.Add(quotaOf("count/configmaps")); err != nil {
			t.Fatal(err)
		}
		informer, err := c.count(ctx, kind)
		if err != nil {
			t.Fatal(err)
		}
		if c.letGo(); c.kinds[kind].informer != informer {
			t.Error("the counter of a kind that a quota names went")
		}
		if err := quotas.Delete(quotaOf("count/configmaps")); err != nil {
			t.Fatal(err)
		}
		c.letGo()
		synctest.Wait()
		if !informer.Informer().IsStopped() || len(c.kinds) > 0 {
			t.Error("the counter of a kind that no quota names stays")
		}
	})
}
