package deployment

import (
	"log/slog"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"kontiki/controllers/podview"
)

// TestANameThatIsTakenIsACollision: the ReplicaSet's name is made of the template's hash.
// If one of that name has another template, or another owner, the hash is another with
// the next collision count, and what has the name is left alone. One that an
// earlier leader made, and that the cache does not show yet, is no collision.
func TestANameThatIsTakenIsACollision(t *testing.T) {
	for name, test := range map[string]struct {
		taken      func(*appsv1.ReplicaSet)
		unseen     bool // by the cache
		collisions *int32
	}{
		"another template":                {func(rs *appsv1.ReplicaSet) { rs.Spec.Template.Spec.Containers[0].Image = "other" }, false, ptr.To[int32](1)},
		"another template, not seen yet":  {func(rs *appsv1.ReplicaSet) { rs.Spec.Template.Spec.Containers[0].Image = "other" }, true, ptr.To[int32](1)},
		"another's":                       {func(rs *appsv1.ReplicaSet) { rs.OwnerReferences[0].UID = "another" }, false, ptr.To[int32](1)},
		"of an earlier leader":            {func(*appsv1.ReplicaSet) {}, true, nil},
		"of an earlier leader, seen, too": {func(*appsv1.ReplicaSet) {}, false, nil},
	} {
		t.Run(name, func(t *testing.T) { collides(t, test.taken, test.unseen, test.collisions) })
	}
}

func collides(t *testing.T, taken func(*appsv1.ReplicaSet), unseen bool, collisions *int32) {
	labels := map[string]string{"app": "web"}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "d", Generation: 1},
		Spec:       appsv1.DeploymentSpec{Replicas: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: templateOf("web:1")},
	}
	before := newReplicaSet(d)
	before.UID = "taken"
	taken(before)
	client := fake.NewClientset(d, before)
	shared := informers.NewSharedInformerFactory(client, 0)
	if err := shared.Core().V1().Pods().Informer().AddIndexers(podview.Indexers()); err != nil {
		t.Fatal(err)
	}
	c := New(client, shared, record.NewFakeRecorder(100), slog.New(slog.DiscardHandler), time.Now)
	deployments, sets := client.AppsV1().Deployments("default"), client.AppsV1().ReplicaSets("default")
	sync := func() error {
		current, err := deployments.Get(t.Context(), d.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.deploymentInformer.GetStore().Replace([]any{current}, ""); err != nil {
			t.Fatal(err)
		}
		var seen []any
		if !unseen {
			seen = append(seen, before)
		}
		if err := c.setInformer.GetStore().Replace(seen, ""); err != nil {
			t.Fatal(err)
		}
		return c.sync(t.Context(), "default/web")
	}
	if err := sync(); (err == nil) != (collisions == nil) {
		t.Errorf("the first pass: %v", err)
	}
	if collisions != nil {
		if err := sync(); err != nil {
			t.Errorf("the second pass: %v", err)
		}
	}
	after, err := deployments.Get(t.Context(), d.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !ptr.Equal(after.Status.CollisionCount, collisions) {
		t.Errorf("the collision count is %v, want %v", ptr.Deref(after.Status.CollisionCount, -1), ptr.Deref(collisions, -1))
	}
	list, err := sets.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for i := range list.Items {
		switch rs := &list.Items[i]; {
		case rs.Name != before.Name:
			made++
			if !sameTemplate(&rs.Spec.Template, &d.Spec.Template) || !metav1.IsControlledBy(rs, d) || rs.Name != newReplicaSet(after).Name {
				t.Errorf("%s was made for the template: %+v", rs.Name, rs)
			}
		case collisions != nil && !sameTemplate(&rs.Spec.Template, &before.Spec.Template) || rs.UID != before.UID:
			t.Errorf("what had the name is another: %+v", rs)
		}
	}
	if want := int(ptr.Deref(collisions, 0)); made != want {
		t.Errorf("%d ReplicaSets were made, want %d", made, want)
	}
}
