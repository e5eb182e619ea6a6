package workload

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
)

const (
	registersAtOnce = 3
	// callsPerRegister bounds a register's history: the search for an order of it takes
	// time that grows fast.
	callsPerRegister = 120
	registerLimit    = time.Minute
)

// register uses ConfigMaps as registers: some at a time, and after some hundred calls
// others. What counts on a version is refused where that is not the latest.
func register() Workload {
	w := Workload{
		Name:  "register",
		About: "reads and writes of one object, by resourceVersion or without, are linearizable; so is the order of all revisions",
		judge: judgeRegisters,
	}
	w.run = func(ctx context.Context, r *Run) error {
		var calls atomic.Int64
		err := w.everywhere(ctx, r, func(p *process) func(context.Context) {
			seen := make(map[string]history.Item)
			return func(ctx context.Context) {
				generation := calls.Add(1) / (registersAtOnce * callsPerRegister)
				key := "r-" + strconv.FormatInt(generation*registersAtOnce+p.chance.Int64N(registersAtOnce), 10)
				p.registerTurn(ctx, key, seen)
			}
		})
		if err != nil {
			return err
		}
		return w.readAll(ctx, r)
	}
	return w
}

// registerTurn is one call on a register. What the process has seen of it last, it
// counts on; the zero Item is a register that is not there, as far as it knows.
func (p *process) registerTurn(ctx context.Context, key string, seen map[string]history.Item) {
	known := seen[key]
	var e history.Event
	switch draw := p.chance.IntN(100); {
	case draw < 35, p.reads && p.chance.IntN(4) > 0:
		e = p.read(ctx, key)
	case known.Revision == 0 && draw < 80:
		e = p.create(ctx, key, p.value())
	case known.Revision == 0:
		e = p.patch(ctx, key, p.value(), history.Item{})
	case draw < 60:
		e = p.update(ctx, key, p.value(), known)
	case draw < 72:
		e = p.patch(ctx, key, p.value(), known)
	case draw < 84:
		e = p.patch(ctx, key, p.value(), history.Item{})
	case draw < 93:
		e = p.remove(ctx, key, known)
	default:
		e = p.remove(ctx, key, history.Item{})
	}
	switch {
	case e.Type == history.OK && e.Refused == "" && e.F != "delete":
		seen[key] = history.Item{Key: key, Value: e.Value, Revision: e.Revision}
	case e.Type == history.OK && (e.F == "delete" && e.Refused == "" || e.Refused == history.Absent):
		delete(seen, key)
	case e.Refused == history.Conflict || e.Refused == history.Exists:
		// Now and then it counts on what it knows to be old.
		if p.chance.IntN(4) > 0 {
			if e := p.read(ctx, key); e.Type == history.OK && e.Refused == "" {
				seen[key] = history.Item{Key: key, Value: e.Value, Revision: e.Revision}
			}
		}
	}
}

func judgeRegisters(h judged) []check.Anomaly {
	var registers []check.RegisterOp
	var points []check.Point
	for _, op := range h.finals() {
		registers = append(registers, h.registersShown(op)...)
	}
	for _, op := range h.ops {
		if op.Call.F == final {
			continue
		}
		registers = append(registers, registerOp(op))
		if op.Return.Type == history.OK && op.Return.Revision != 0 && op.Call.F != "read" {
			points = append(points, check.Point{Span: op.Span(), Outcome: check.OK, Revision: op.Return.Revision, Changed: true, What: op.String()})
		}
	}
	return append(check.Registers(registers, registerLimit), check.RealTime(points)...)
}

// registersShown are the reads that a list of all registers is: also of those that it
// does not show, since what is lost is not there.
func (h judged) registersShown(list history.Op) (reads []check.RegisterOp) {
	items := objectsOf(list.Return.Items)
	keys := make(map[string]bool)
	for _, op := range h.ops {
		if op.Call.Key != "" {
			keys[op.Call.Key] = true
		}
	}
	for key := range items {
		keys[key] = true
	}
	for _, key := range sortedKeys(keys) {
		is, there := items[key]
		reads = append(reads, check.RegisterOp{Span: list.Span(), Key: key, What: list.String(), Kind: check.Read,
			Outcome: check.OK, Seen: check.Version(is), Missing: !there})
	}
	return reads
}

// registerOp is a call as the checker of registers knows it.
func registerOp(op history.Op) check.RegisterOp {
	is := check.RegisterOp{
		Span: op.Span(), Key: op.Call.Key, What: op.String(), Outcome: op.Outcome(), New: op.Call.Value,
		Expect:  check.Version{Value: op.Call.Expect, Revision: op.Call.At},
		Seen:    check.Version{Value: op.Return.Value, Revision: op.Return.Revision},
		Missing: op.Return.Refused == history.Absent,
		Blind:   op.Return.Refused == history.Conflict || op.Return.Refused == history.Exists,
	}
	is.Swapped = is.Outcome == check.OK && op.Return.Refused == ""
	switch op.Call.F {
	case "read":
		is.Kind = check.Read
	case "create", "update":
		is.Kind = check.Swap
	case "patch":
		is.Kind = check.Swap
		if op.Call.At == 0 {
			is.Kind = check.Replace
		}
	case "delete":
		is.Kind = check.Remove
	}
	return is
}
