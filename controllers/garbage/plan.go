package garbage

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ownerState is what is known of one owner.
type ownerState string

const (
	solid   ownerState = "solid"   // exists
	absent  ownerState = "absent"  // certainly does not exist
	waiting ownerState = "waiting" // is being deleted in the foreground, and waits
)

// verb is what to do with an object.
type verb string

const (
	nothing         verb = ""
	remove          verb = "delete"          // with policy
	unlink          verb = "unlink"          // drop the references in Owners
	release         verb = "release"         // drop the finalizer: nobody is waited for
	orphan          verb = "orphan"          // unlink all dependents, then drop the finalizer
	visitDependents verb = "visitDependents" // the dependents have to go first
)

// action is the plan for one object.
type action struct {
	Verb   verb                       `json:"verb,omitempty"`
	Policy metav1.DeletionPropagation `json:"policy,omitempty"`
	Owners []types.UID                `json:"owners,omitempty"`
}

// family is an object with what is known of its owners and dependents.
type family struct {
	deleting bool
	waits    bool
	orphans  bool
	owners   []metav1.OwnerReference
	states   map[types.UID]ownerState
	// finalizers decide how the object is deleted: as it was asked to be.
	finalizers []string
	dependents []dependent
}

// dependent is an object that names this one as its owner.
type dependent struct {
	blocks bool // blockOwnerDeletion
	waits  bool // is being deleted in the foreground itself
	circle bool // and waits, over whatever else waits, for this one: neither would ever go
}

// plan decides about one object. An object goes when it had owners and none of
// them is left; it only loses references when one is.
func plan(f family) action {
	switch {
	case f.deleting && f.orphans:
		return action{Verb: orphan}
	case f.deleting && f.waits:
		for _, d := range f.dependents {
			if d.blocks && !d.circle {
				return action{Verb: visitDependents}
			}
		}
		return action{Verb: release}
	case f.deleting || len(f.owners) == 0:
		return action{}
	}
	var solids, absents, waits []types.UID
	for _, o := range f.owners {
		switch f.states[o.UID] {
		case absent:
			absents = append(absents, o.UID)
		case waiting:
			waits = append(waits, o.UID)
		default:
			solids = append(solids, o.UID)
		}
	}
	switch {
	case len(absents) == 0 && len(waits) == 0:
		return action{}
	case len(solids) > 0:
		return action{Verb: unlink, Owners: append(absents, waits...)}
	case len(waits) > 0 && len(f.dependents) > 0:
		// An owner waits for this object and all below it. In a cycle of waiting
		// objects nobody would ever go, so a waiting dependent makes it background.
		for _, d := range f.dependents {
			if d.waits {
				return action{Verb: remove, Policy: metav1.DeletePropagationBackground}
			}
		}
		return action{Verb: remove, Policy: metav1.DeletePropagationForeground}
	}
	return action{Verb: remove, Policy: policyOf(f.finalizers)}
}

func policyOf(finalizers []string) metav1.DeletionPropagation {
	for _, f := range finalizers {
		switch f {
		case metav1.FinalizerOrphanDependents:
			return metav1.DeletePropagationOrphan
		case metav1.FinalizerDeleteDependents:
			return metav1.DeletePropagationForeground
		}
	}
	return metav1.DeletePropagationBackground
}
