package namespacedefaults

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPlan(t *testing.T) {
	active := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	leaving := active.DeepCopy()
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(0, 0)}
	have := func(ca string) *corev1.ConfigMap { return &corev1.ConfigMap{Data: map[string]string{"ca.crt": ca}} }
	sa := &corev1.ServiceAccount{}
	for name, c := range map[string]struct {
		w                       world
		account, create, update bool
	}{
		"a new namespace gets both":        {world{namespace: active, ca: "CA"}, true, true, false},
		"one that has both gets nothing":   {world{namespace: active, ca: "CA", account: sa, bundle: have("CA")}, false, false, false},
		"a bundle that was changed":        {world{namespace: active, ca: "CA", account: sa, bundle: have("mine")}, false, false, true},
		"one on its way out gets nothing":  {world{namespace: leaving, ca: "CA"}, false, false, false},
		"without a bundle only an account": {world{namespace: active}, true, false, false},
	} {
		a := plan(c.w)
		if (a.account != nil) != c.account || (a.create != nil) != c.create || (a.update != nil) != c.update {
			t.Errorf("%s: %+v", name, a)
		}
		if a.update != nil && a.update.Data["ca.crt"] != "CA" {
			t.Errorf("%s: writes %v", name, a.update.Data)
		}
	}
}
