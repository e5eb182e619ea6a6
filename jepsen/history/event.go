package history

import (
	"fmt"
	"math"
	"time"

	"kontiki/jepsen/check"
)

// Type is what an Event says of its operation.
type Type string

const (
	Invoke Type = "invoke" // it is about to be asked for
	OK     Type = "ok"     // it took effect, or was answered, as told
	Fail   Type = "fail"   // it did not take effect and never will
	Info   Type = "info"   // it may have, or will, or never; also what is told without being asked for
)

// Nemesis is the Process of the first fault; those after it have lesser ones.
const Nemesis = -1

// Event is one line of a history.
type Event struct {
	Index    int64  `json:"index"`
	Time     int64  `json:"time"` // nanoseconds since the run began
	Type     Type   `json:"type"`
	Process  int    `json:"process"` // who asked, one thing at a time
	Node     string `json:"node,omitempty"`
	Workload string `json:"workload,omitempty"` // none of faults
	F        string `json:"f"`                  // what is done: read, create, watch, kill, …
	Key      string `json:"key,omitempty"`      // of an object; of a fault, whom it strikes
	Value    string `json:"value,omitempty"`    // written, read, or told
	Expect   string `json:"expect,omitempty"`   // the value that a conditional write counts on
	At       uint64 `json:"at,omitempty"`       // the revision that it counts on, or that a watch begins after
	Level    string `json:"level,omitempty"`    // the resourceVersion that a read asks for
	Revision uint64 `json:"revision,omitempty"` // of an answer
	Refused  string `json:"refused,omitempty"`  // why an answered write did nothing
	Items    []Item `json:"items,omitempty"`    // of a list
	Error    string `json:"error,omitempty"`
	// When it was, of what is told later: times as Time is.
	Since int64 `json:"since,omitempty"`
	Until int64 `json:"until,omitempty"`
}

// Item is an object of a list.
type Item struct {
	Key      string `json:"key"`
	Value    string `json:"value"`
	Revision uint64 `json:"revision"`
}

// Why a write that was answered did nothing.
const (
	Conflict = "conflict" // what it counted on was not so
	Absent   = "absent"   // the object does not exist
	Exists   = "exists"   // it exists already
)

// Op is a call with what came of it.
type Op struct {
	Call   Event
	Return Event // the zero Event of a call that never returned
}

// Outcome is what the caller knows.
func (o Op) Outcome() check.Outcome {
	switch o.Return.Type {
	case OK:
		return check.OK
	case Fail:
		return check.Failed
	}
	return check.Unknown
}

// Span is the operation's place in the order of all.
func (o Op) Span() check.Span {
	return check.Span{Call: o.Call.Index, Return: o.Return.Index}
}

// Duration is how long it took, 0 if it never returned.
func (o Op) Duration() time.Duration {
	if o.Return.Type == "" {
		return 0
	}
	return time.Duration(o.Return.Time - o.Call.Time)
}

// String is the operation in words.
func (o Op) String() string {
	what := fmt.Sprintf("process %d on %s: %s", o.Call.Process, o.Call.Node, o.Call.F)
	if o.Call.Key != "" {
		what += " " + o.Call.Key
	}
	if o.Call.Level != "" {
		what += " not older than " + o.Call.Level
	}
	if o.Call.Value != "" {
		what += " = " + o.Call.Value
	}
	if o.Call.At != 0 {
		what += fmt.Sprintf(", at %d", o.Call.At)
	}
	r := o.Return
	switch {
	case r.Type == "":
		return what + " → never returned"
	case r.Type != OK:
		return what + " → " + string(r.Type) + ": " + r.Error
	case r.Refused != "":
		return what + " → refused: " + r.Refused
	case r.Items != nil:
		return fmt.Sprintf("%s → %d objects at revision %d", what, len(r.Items), r.Revision)
	case o.Call.Value == "" && r.Value != "":
		return fmt.Sprintf("%s → %s at revision %d", what, r.Value, r.Revision)
	}
	return fmt.Sprintf("%s → revision %d", what, r.Revision)
}

// Ops pairs calls with their returns, in the order of calls. What is told while a call
// goes on has another F than the call.
func Ops(events []Event) []Op {
	var ops []Op
	open := make(map[int]int) // process → place in ops
	for _, e := range events {
		if e.Type == Invoke {
			open[e.Process] = len(ops)
			ops = append(ops, Op{Call: e})
			continue
		}
		if i, ok := open[e.Process]; ok && ops[i].Call.F == e.F {
			ops[i].Return = e
			delete(open, e.Process)
		}
	}
	return ops
}

// Fault tells whether an event is of a fault and not of a client.
func (e Event) Fault() bool { return e.Process <= Nemesis }

// What is told of a node's process while a fault goes on.
const (
	Ending = "ending" // it is about to be ended
	Ended  = "ended"  // it has ended
)

// Touches is the F by which a fault says whom it may touch, once that is known: each Item
// is of a host, the Key, and of what between it and another one, the Value, or of all that it
// does, or of its node's process alone. From its call until it says so, a fault may touch all.
const Touches = "touches"

// What a fault touches of a host, beside what is between it and another one.
const (
	AllWays = "*"
	Node    = "node"
)

// Whole is the F of the wait for a cluster to be whole, which ends all faults before it.
const Whole = "whole"

// Lives tells which life of a node's process answered an operation: how often the
// process had been ended before. It is false where that is not certain.
type Lives map[string][]check.Span

// LivesOf reads the ends of processes from a history.
func LivesOf(events []Event) Lives {
	lives := make(Lives)
	for _, e := range events {
		if !e.Fault() {
			continue
		}
		switch ends := lives[e.Node]; {
		case e.F == Ending:
			lives[e.Node] = append(ends, check.Span{Call: e.Index, Return: math.MaxInt64})
		case e.F == Ended && len(ends) > 0:
			ends[len(ends)-1].Return = e.Index
		}
	}
	return lives
}

// Of is the life that answered an operation.
func (l Lives) Of(op Op) (life int, ok bool) {
	for _, end := range l[op.Call.Node] {
		switch {
		case end.Return < op.Call.Index:
			life++
		case end.Call < op.Return.Index:
			return 0, false
		}
	}
	return life, true
}
