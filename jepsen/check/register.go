package check

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// RegisterKind is what a RegisterOp does.
type RegisterKind uint8

const (
	Read   RegisterKind = iota + 1
	Write               // whatever the register holds
	Swap                // if it holds Expect
	Delete              // whatever it holds
)

// Version is what a register holds. The zero Version is a register that does not
// exist. All values that are ever written differ.
type Version struct {
	Value    string
	Revision uint64 // 0 if that is not known
}

// RegisterOp is one operation on one register.
type RegisterOp struct {
	Span
	Key     string
	Kind    RegisterKind
	Outcome Outcome
	Expect  Version // of a swap
	New     string  // of a write or swap
	Swapped bool    // a swap that is OK found what it expected
	// Seen is what a read showed, what a swap that did not find what it expected was
	// told, or what a write or swap made.
	Seen Version
}

// Registers tells which registers are not linearizable. A register for which that is
// not decided within limit counts as one.
func Registers(ops []RegisterOp, limit time.Duration) []Anomaly {
	byKey := make(map[string][]RegisterOp)
	for _, op := range ops {
		byKey[op.Key] = append(byKey[op.Key], op)
	}
	var found []Anomaly
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		history := registerHistory(byKey[key])
		switch porcupine.CheckOperationsTimeout(registerModel, history, limit) {
		case porcupine.Illegal:
			found = append(found, anomaly("not linearizable", "register %s, %d operations", key, len(history)))
		case porcupine.Unknown:
			found = append(found, anomaly("undecided", "register %s, %d operations in %v", key, len(history), limit))
		}
	}
	return found
}

// registerHistory leaves out what cannot matter: what failed, reads whose answer is
// not known, and writes of unknown outcome that nobody ever saw. Without one of the
// last, any order that explains the others still does; with it, it may stand last.
func registerHistory(ops []RegisterOp) []porcupine.Operation {
	seen := make(map[string]bool)
	for _, op := range ops {
		if op.Outcome == OK {
			seen[op.Seen.Value], seen[op.Expect.Value] = true, true
		}
	}
	var history []porcupine.Operation
	for _, op := range ops {
		end := op.Return
		switch {
		case op.Outcome == Failed, op.Outcome == Unknown && op.Kind == Read,
			op.Outcome == Unknown && op.Kind != Delete && !seen[op.New]:
			continue
		case op.Outcome == Unknown:
			end = math.MaxInt64
		}
		history = append(history, porcupine.Operation{Input: op, Call: op.Call, Return: end})
	}
	return history
}

var registerModel = porcupine.Model{
	Init: func() any { return Version{} },
	Step: func(state, input, _ any) (bool, any) { return input.(RegisterOp).step(state.(Version)) },
	DescribeOperation: func(input, _ any) string {
		return fmt.Sprintf("%+v", input)
	},
}

// step is the register as it should be. The revision of a state may be unknown until
// somebody sees it.
func (op RegisterOp) step(is Version) (bool, Version) {
	switch op.Kind {
	case Read:
		return is.may(op.Seen), op.Seen
	case Write:
		if op.Outcome == Unknown {
			return true, Version{Value: op.New}
		}
		return op.Seen.Revision > is.Revision, op.Seen
	case Delete:
		return true, Version{}
	}
	holds := is.may(op.Expect)
	switch {
	case op.Outcome == Unknown && holds:
		return true, Version{Value: op.New}
	case op.Outcome == Unknown:
		return true, is
	case op.Swapped:
		return holds && op.Seen.Revision > op.Expect.Revision, op.Seen
	}
	return !holds && is.may(op.Seen), op.Seen
}

// may tells whether two accounts can be of the same version.
func (v Version) may(other Version) bool {
	return v.Value == other.Value && (v.Revision == other.Revision || v.Revision == 0 || other.Revision == 0)
}
