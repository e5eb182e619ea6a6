package garbage

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kontiki/controllers/plantest"
)

type input struct {
	Deleting   bool                     `json:"deleting"`
	Finalizers []string                 `json:"finalizers"`
	Owners     map[types.UID]ownerState `json:"owners"`
	Order      []types.UID              `json:"order"`
	Dependents []struct {
		Blocks bool `json:"blocks"`
		Waits  bool `json:"waits"`
		Circle bool `json:"circle"`
	} `json:"dependents"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) action {
		meta := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Finalizers: in.Finalizers}}
		if in.Deleting {
			meta.DeletionTimestamp = &metav1.Time{}
		}
		for _, uid := range in.Order {
			meta.OwnerReferences = append(meta.OwnerReferences, metav1.OwnerReference{UID: uid})
		}
		i := newItem(podsGVR, meta)
		f := family{deleting: i.deleting, waits: i.waits, orphans: i.orphans, owners: i.owners, states: in.Owners, finalizers: in.Finalizers}
		for _, d := range in.Dependents {
			f.dependents = append(f.dependents, dependent{blocks: d.Blocks, waits: d.Waits, circle: d.Circle})
		}
		return plan(f)
	})
}
