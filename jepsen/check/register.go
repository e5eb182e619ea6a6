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
	Read    RegisterKind = iota + 1
	Write                // whatever the register holds
	Swap                 // if it holds Expect
	Delete               // whatever it holds
	Replace              // whatever it holds, if it exists
	Remove               // if it exists; where Expect is given, if it holds that
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
	What    string // in words, for who reads of it
	Kind    RegisterKind
	Outcome Outcome
	Expect  Version // of a swap or remove
	New     string  // of a write, swap or replace
	Swapped bool    // a swap or remove that is OK found what it expected
	Missing bool    // it did nothing, and was told that the register does not exist
	Blind   bool    // it did nothing, and was not told what the register holds
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
			found = append(found, misfit(key, history, limit))
		case porcupine.Unknown:
			found = append(found, anomaly("undecided", "register %s, %d operations in %v", key, len(history), limit))
		}
	}
	return found
}

// misfit says which operation of a register that is not linearizable does not fit: the
// first that the longest order of its operations has no place for.
func misfit(key string, history []porcupine.Operation, limit time.Duration) Anomaly {
	found := anomaly("not linearizable", "register %s, %d operations", key, len(history))
	_, info := porcupine.CheckOperationsVerbose(registerModel, history, limit)
	var longest []porcupine.Operation
	for _, partial := range info.PartialLinearizationsOperations() {
		for _, order := range partial {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	placed := make(map[int64]bool)
	for _, op := range longest {
		placed[op.Call] = true
	}
	var first *RegisterOp
	for _, op := range history {
		in := op.Input.(RegisterOp)
		if !placed[op.Call] && in.Outcome == OK && (first == nil || in.Return < first.Return) {
			first = &in
		}
	}
	if first == nil {
		return found
	}
	found = found.at(first.Call)
	found.Text += fmt.Sprintf("; no order of the %d others has a place for: %s", len(history)-1, first.What)
	if len(longest) > 0 {
		last := longest[len(longest)-1].Input.(RegisterOp)
		found.Text += "; the last that has one: " + last.What
		found = found.at(last.Call)
	}
	return found
}

// registerHistory leaves out what cannot matter: what failed, reads whose answer is
// not known, and writes of unknown outcome that nobody can have noticed. Without one of the
// last, any order that explains the others still does; with it, it may stand last.
func registerHistory(ops []RegisterOp) []porcupine.Operation {
	seen := make(map[string]bool)
	unseen := false
	for _, op := range ops {
		if op.Outcome == OK {
			seen[op.Seen.Value], seen[op.Expect.Value] = true, true
			unseen = unseen || op.noticesUnseen()
		}
	}
	var history []porcupine.Operation
	for _, op := range ops {
		end := op.Return
		switch {
		case op.Outcome == Failed, op.Outcome == Unknown && op.Kind == Read,
			op.Outcome == Unknown && op.Kind != Delete && op.Kind != Remove && !seen[op.New] && !unseen:
			continue
		case op.Outcome == Unknown:
			end = math.MaxInt64
		}
		history = append(history, porcupine.Operation{Input: op, Call: op.Call, Return: end})
	}
	return history
}

// noticesUnseen tells if an operation that is OK depends on what the register holds, and
// does not tell what that is: that it exists, or is not what was expected.
func (op RegisterOp) noticesUnseen() bool {
	return op.Blind || !op.Missing && (op.Kind == Replace || op.Kind == Remove)
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
	none := Version{}
	if op.Missing {
		return is.may(none), none
	}
	exists := !is.may(none)
	switch op.Kind {
	case Read:
		return is.may(op.Seen), op.Seen
	case Write:
		if op.Outcome == Unknown {
			return true, Version{Value: op.New}
		}
		return op.Seen.Revision > is.Revision, op.Seen
	case Replace:
		switch {
		case op.Outcome == OK:
			return exists && op.Seen.Revision > is.Revision, op.Seen
		case exists:
			return true, Version{Value: op.New}
		}
		return true, is
	case Delete:
		return true, none
	case Remove:
		return op.swap(is, exists && (op.Expect == none || is.may(op.Expect)), none)
	}
	return op.swap(is, is.may(op.Expect), Version{Value: op.New})
}

// swap is a step from one state to another if a condition holds.
func (op RegisterOp) swap(is Version, holds bool, then Version) (bool, Version) {
	switch {
	case op.Outcome == Unknown && holds:
		return true, then
	case op.Outcome == Unknown:
		return true, is
	case op.Swapped && op.Kind == Remove:
		return holds, then
	case op.Swapped:
		return holds && op.Seen.Revision > op.Expect.Revision, op.Seen
	case op.Blind:
		return !holds, is
	}
	return !holds && is.may(op.Seen), op.Seen
}

// may tells whether two accounts can be of the same version.
func (v Version) may(other Version) bool {
	return v.Value == other.Value && (v.Revision == other.Revision || v.Revision == 0 || other.Revision == 0)
}
