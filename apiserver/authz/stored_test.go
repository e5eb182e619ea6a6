package authz

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// TestStoredBindings: what is put together once is put together anew when a binding
// comes, changes or goes; one of the defaults that the store lacks is there still.
func TestStoredBindings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		client := fake.NewClientset()
		shared := informers.NewSharedInformerFactory(client, 0)
		defaults := &Table{clusterRoles: map[string]*rbacv1.ClusterRole{}, roles: map[string]*rbacv1.Role{}}
		defaults.bind("standard")
		stored, err := NewStored(shared.Rbac().V1(), defaults)
		if err != nil {
			t.Fatal(err)
		}
		shared.StartWithContext(ctx)
		defer shared.Shutdown()
		defer cancel()
		has := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			for range 2 { // as put together, and as remembered
				var names []string
				for _, b := range stored.ClusterRoleBindings() {
					names = append(names, b.Name+" to "+b.RoleRef.Name)
				}
				slices.Sort(names)
				if !slices.Equal(names, want) {
					t.Errorf("%s: %q, want %q", what, names, want)
				}
			}
		}
		has("at first", "standard to standard")
		bindings := client.RbacV1().ClusterRoleBindings()
		mine := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, RoleRef: rbacv1.RoleRef{Name: "one"}}
		if _, err := bindings.Create(ctx, mine, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		has("one more", "mine to one", "standard to standard")
		mine.RoleRef.Name = "other"
		if _, err := bindings.Update(ctx, mine, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		has("changed", "mine to other", "standard to standard")
		theirs := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "standard"}, RoleRef: rbacv1.RoleRef{Name: "less"}}
		if _, err := bindings.Create(ctx, theirs, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		has("a default that somebody changed", "mine to other", "standard to less")
		for _, name := range []string{"mine", "standard"} {
			if err := bindings.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		has("both gone", "standard to standard")
	})
}
