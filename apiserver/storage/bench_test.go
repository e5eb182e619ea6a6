package storage_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage"
)

// newProtobufFixture stores as the API server does, where the suite uses JSON.
func newProtobufFixture(b *testing.B) *fixture {
	scheme := newScheme()
	codec, _, err := serverstorage.NewStorageCodec(serverstorage.StorageCodecConfig{
		StorageMediaType:  runtime.ContentTypeProtobuf,
		StorageSerializer: serializer.NewCodecFactory(scheme),
		StorageVersion:    examplev1.SchemeGroupVersion,
		MemoryVersion:     example.SchemeGroupVersion,
	})
	if err != nil {
		b.Fatal(err)
	}
	return newFixture(b, newStore(b), withCodec(codec))
}

func bigPod(i int) *example.Pod {
	return &example.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("pod-%06d", i), Labels: map[string]string{"app": "x"}},
		Spec:       example.PodSpec{NodeSelector: map[string]string{"key": strings.Repeat("x", 2048)}},
	}
}

func BenchmarkCreate(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			f := newProtobufFixture(b)
			var n atomic.Int64
			b.SetParallelism((writers + 1) / 2)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := int(n.Add(1))
					if err := f.Create(b.Context(), fmt.Sprintf("/pods/ns/pod-%06d", i), bigPod(i), &example.Pod{}, 0); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func BenchmarkGetList(b *testing.B) {
	f := newProtobufFixture(b)
	const objects = 2000
	for i := range objects {
		if err := f.Create(b.Context(), fmt.Sprintf("/pods/ns/pod-%06d", i), bigPod(i), nil, 0); err != nil {
			b.Fatal(err)
		}
	}
	for name, limit := range map[string]int64{"all": 0, "pages-of-500": 500} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				token := ""
				for {
					list := &example.PodList{}
					opts := storage.ListOptions{Recursive: true, Predicate: storage.Everything}
					opts.Predicate.Limit, opts.Predicate.Continue = limit, token
					if err := f.GetList(b.Context(), "/pods/", opts, list); err != nil {
						b.Fatal(err)
					}
					if token = list.Continue; token == "" {
						break
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/objects, "µs/object")
		})
	}
}
