package disruption

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	scalefake "k8s.io/client-go/scale/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"kontiki/controllers/scaletarget"
)

type kinds struct{ meta.RESTMapper }

func (kinds) Reset() {}

// TestOwnersOfAnyKind: one that is gone is not counted, nor is another of its name; a
// kind without sizes is said to be one.
func TestOwnersOfAnyKind(t *testing.T) {
	group := schema.GroupVersion{Group: "example.com", Version: "v1"}
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{group})
	mapper.Add(group.WithKind("Fleet"), meta.RESTScopeNamespace)
	mapper.Add(group.WithKind("Rock"), meta.RESTScopeNamespace)
	client := fake.NewClientset()
	client.Resources = []*metav1.APIResourceList{{GroupVersion: group.String(), APIResources: []metav1.APIResource{
		{Name: "fleets", Kind: "Fleet"}, {Name: "fleets/scale", Kind: "Scale"}, {Name: "rocks", Kind: "Rock"},
	}}}
	scales := &scalefake.FakeScaleClient{}
	scales.AddReactor("get", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		name := action.(clienttesting.GetAction).GetName()
		if name != "there" {
			return true, nil, apierrors.NewNotFound(action.GetResource().GroupResource(), name)
		}
		return true, &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u"}, Spec: autoscalingv1.ScaleSpec{Replicas: 3}}, nil
	})
	c := New(client, informers.NewSharedInformerFactory(client, 0), &scaletarget.Targets{Scales: scales, Mapper: kinds{mapper}}, record.NewFakeRecorder(1), slog.New(slog.DiscardHandler), time.Now)
	owned := func(kind, name string, uid types.UID) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: group.String(), Kind: kind, Name: name, UID: uid, Controller: ptr.To(true)},
		}}}
	}
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		want int
		err  string
	}{
		"there":          {owned("Fleet", "there", "u"), 3, ""},
		"another's name": {owned("Fleet", "there", "old"), 0, ""},
		"gone":           {owned("Fleet", "gone", "g"), 0, ""},
		"without sizes":  {owned("Rock", "gone", "r"), 0, "rocks.example.com does not implement the scale subresource"},
	} {
		sum, _, err := c.expected(t.Context(), []*corev1.Pod{test.pod})
		if sum != test.want || (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %d, %v; want %d %s", name, sum, err, test.want, test.err)
		}
	}
}
