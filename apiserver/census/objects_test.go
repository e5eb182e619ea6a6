package census

import (
	"maps"
	"testing"

	"kontiki/internal/meter/metertest"
	"kontiki/raftstore/raftstoretest"
)

func TestObjects(t *testing.T) {
	store := raftstoretest.New(t)
	for _, key := range []string{
		"/registry/pods/default/a", "/registry/pods/kube-system/a", "/registry/nodes/n1", "/registry/apps/deployments/default/web", "/registry/policy/poddisruptionbudgets/default/web",
		"/registry/rbac.authorization.k8s.io/clusterroles/admin", "/registry/sea.example/boats/default/kontiki", "/registry/odd", "/kontiki/names/n1",
	} {
		put(t, store, key, []byte("x"))
	}
	got := metertest.Read(t, &Metrics, Objects{store.View})
	want := map[string]float64{
		`kontiki_store_objects{group="",resource="pods"}`:                                  2,
		`kontiki_store_objects{group="",resource="nodes"}`:                                 1,
		`kontiki_store_objects{group="apps",resource="deployments"}`:                       1,
		`kontiki_store_objects{group="policy",resource="poddisruptionbudgets"}`:            1,
		`kontiki_store_objects{group="rbac.authorization.k8s.io",resource="clusterroles"}`: 1,
		`kontiki_store_objects{group="sea.example",resource="boats"}`:                      1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
