package garbage

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

var podsGVR = corev1.SchemeGroupVersion.WithResource("pods")

// kinds is discovery of Pods and ConfigMaps.
type kinds struct{}

func (kinds) ServerPreferredResourcesWithContext(context.Context) ([]*metav1.APIResourceList, error) {
	verbs := metav1.Verbs{"delete", "list", "watch"}
	return []*metav1.APIResourceList{{GroupVersion: "v1", APIResources: []metav1.APIResource{
		{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: verbs},
		{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: verbs},
	}}}, nil
}

func object(kind, name string, owners ...string) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: kind},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
	}
	for _, owner := range owners {
		blocks := true
		o.OwnerReferences = append(o.OwnerReferences, metav1.OwnerReference{
			APIVersion: "v1", Kind: "ConfigMap", Name: owner, UID: types.UID("uid-" + owner), BlockOwnerDeletion: &blocks,
		})
	}
	return o
}

func deletingWith(o *metav1.PartialObjectMetadata, finalizer string) *metav1.PartialObjectMetadata {
	o.DeletionTimestamp, o.Finalizers = &metav1.Time{Time: time.Unix(1, 0)}, []string{finalizer}
	return o
}

func TestCollects(t *testing.T) {
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	client := metadatafake.NewSimpleMetadataClient(scheme,
		object("ConfigMap", "owner"), object("Pod", "kept", "owner"), object("Pod", "left", "lost"), object("Pod", "half", "owner", "lost"),
		deletingWith(object("ConfigMap", "front"), metav1.FinalizerDeleteDependents), object("Pod", "below", "front"),
		deletingWith(object("ConfigMap", "orphaner"), metav1.FinalizerOrphanDependents), object("Pod", "stays", "orphaner"),
	)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	c := New(client, kinds{}, record.NewFakeRecorder(10), slog.New(slog.NewTextHandler(io.Discard, nil)))
	go func() { stopped <- c.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}()
	get := func(resource, name string) *metav1.PartialObjectMetadata {
		o, err := client.Resource(corev1.SchemeGroupVersion.WithResource(resource)).Namespace("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return o
	}
	eventually(t, "what lost its owners is gone, what has others lost a reference, foreground and orphan deletion are done", func() bool {
		half, stays, front, orphaner := get("pods", "half"), get("pods", "stays"), get("configmaps", "front"), get("configmaps", "orphaner")
		return get("pods", "left") == nil && get("pods", "below") == nil &&
			half != nil && len(half.OwnerReferences) == 1 &&
			stays != nil && len(stays.OwnerReferences) == 0 &&
			front != nil && len(front.Finalizers) == 0 && orphaner != nil && len(orphaner.Finalizers) == 0
	})
	if kept := get("pods", "kept"); kept == nil || len(kept.OwnerReferences) != 1 {
		t.Errorf("an object with a living owner was touched: %+v", kept)
	}
}

// TestRemovesWhatItSaw: an object is deleted as it was decided on, without being read
// again; its owner is always asked for. One that has changed meanwhile is decided on anew.
func TestRemovesWhatItSaw(t *testing.T) {
	at := func(version string, o *metav1.PartialObjectMetadata) *metav1.PartialObjectMetadata {
		o.ResourceVersion = version
		return o
	}
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		seen, live *metav1.PartialObjectMetadata
		gets       []string // in order
		deletes    []string // versions they name
		kept       bool
	}{
		"as it was seen": {
			seen: at("7", object("Pod", "p", "lost")), live: at("7", object("Pod", "p", "lost")),
			gets: []string{"lost"}, deletes: []string{"7"},
		},
		"changed, and still nobody's": {
			seen: at("7", object("Pod", "p", "lost")), live: at("8", object("Pod", "p", "lost")),
			gets: []string{"lost", "p"}, deletes: []string{"7", "8"},
		},
		"changed, and owned again": {
			seen: at("7", object("Pod", "p", "lost")), live: at("8", object("Pod", "p", "owner")),
			gets: []string{"lost", "p", "owner"}, deletes: []string{"7"}, kept: true,
		},
		"owned by what the graph lacks": {
			seen: at("7", object("Pod", "p", "owner")), live: at("7", object("Pod", "p", "owner")),
			gets: []string{"owner"}, kept: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := metadatafake.NewSimpleMetadataClient(scheme, object("ConfigMap", "owner"), test.live)
			var deletes []string
			client.PrependReactor("delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
				must := action.(clienttesting.DeleteAction).GetDeleteOptions().Preconditions
				if must == nil || must.UID == nil || *must.UID != test.live.UID || must.ResourceVersion == nil {
					t.Fatalf("a deletion under %+v", must)
				}
				deletes = append(deletes, *must.ResourceVersion)
				if *must.ResourceVersion != test.live.ResourceVersion {
					return true, nil, apierrors.NewConflict(corev1.Resource("pods"), "p", nil)
				}
				return false, nil, nil
			})
			c := New(client, kinds{}, record.NewFakeRecorder(10), slog.New(slog.DiscardHandler))
			lists, err := kinds{}.ServerPreferredResourcesWithContext(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c.monitors.kinds, _ = collectable(lists)
			c.graph.set(newItem(podsGVR, test.seen))
			if err := c.sync(t.Context(), string(test.seen.UID)); err != nil {
				t.Fatal(err)
			}
			var gets []string
			for _, a := range client.Actions() {
				if get, ok := a.(clienttesting.GetAction); ok && a.GetVerb() == "get" {
					gets = append(gets, get.GetName())
				}
			}
			if !slices.Equal(gets, test.gets) || !slices.Equal(deletes, test.deletes) {
				t.Errorf("asked for %q and deleted versions %q, want %q and %q", gets, deletes, test.gets, test.deletes)
			}
			_, err = client.Resource(podsGVR).Namespace("default").Get(t.Context(), "p", metav1.GetOptions{})
			if kept := err == nil; kept != test.kept {
				t.Errorf("kept: %v, want %v (%v)", kept, test.kept, err)
			}
		})
	}
}

// TestTellsOfOwnersInOtherNamespaces: whichever is seen first, the object that names an owner
// in another namespace is told of, once; one whose owner is in its own, or in none, is not.
func TestTellsOfOwnersInOtherNamespaces(t *testing.T) {
	in := func(namespace string, o *metav1.PartialObjectMetadata) *metav1.PartialObjectMetadata {
		o.Namespace = namespace
		return o
	}
	pods, maps := podsGVR, corev1.SchemeGroupVersion.WithResource("configmaps")
	type sight struct {
		gvr schema.GroupVersionResource
		obj *metav1.PartialObjectMetadata
	}
	owner := sight{maps, in("there", object("ConfigMap", "owner"))}
	pod := sight{pods, in("here", object("Pod", "p", "owner"))}
	const told = `Warning OwnerRefInvalidNamespace ownerRef [v1/ConfigMap, namespace: here, name: owner, uid: uid-owner] does not exist in namespace "here"` +
		` involvedObject{kind=Pod,apiVersion=v1}`
	for name, test := range map[string]struct {
		seen []sight
		want []string
	}{
		"the owner first":                    {[]sight{owner, pod, pod, owner}, []string{told}},
		"the dependent first":                {[]sight{pod, owner, owner, pod}, []string{told}},
		"a reference that is added":          {[]sight{owner, {pods, in("here", object("Pod", "p"))}, pod}, []string{told}},
		"of two, one is told of":             {[]sight{owner, {maps, in("there", object("ConfigMap", "other"))}, {pods, in("here", object("Pod", "p", "owner", "other"))}}, []string{told}},
		"a dependent without namespace":      {[]sight{owner, {pods, in("", object("Pod", "p", "owner"))}}, []string{strings.ReplaceAll(told, "here", "")}},
		"an owner without namespace":         {[]sight{{maps, in("", object("ConfigMap", "owner"))}, pod}, nil},
		"an owner in the same namespace":     {[]sight{{maps, in("here", object("ConfigMap", "owner"))}, pod}, nil},
		"the same, and the dependent before": {[]sight{pod, {maps, in("here", object("ConfigMap", "owner"))}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			events := record.NewFakeRecorder(10)
			events.IncludeObject = true
			c := New(nil, kinds{}, events, slog.New(slog.DiscardHandler))
			lists, err := kinds{}.ServerPreferredResourcesWithContext(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c.monitors.kinds, _ = collectable(lists)
			for _, s := range test.seen {
				c.seen(s.gvr, s.obj)
			}
			close(events.Events)
			var got []string
			for e := range events.Events {
				got = append(got, e)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("told %q, want %q", got, test.want)
			}
		})
	}
}

func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited 20 s for: %s", what)
		}
	}
}
