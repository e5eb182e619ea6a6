package workload

import (
	"context"
	"fmt"
	"strconv"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
)

// readKeys are the objects that are written and read, by all.
const readKeys = 5

// reads asks for lists in each of the three ways, while the objects change.
func reads() Workload {
	w := Workload{
		Name:  "reads",
		About: `a list with resourceVersion "" is linearizable, one with "0" never goes back on one node process, one with N is not older than N; each shows one revision as it was`,
		judge: judgeReads,
	}
	w.run = func(ctx context.Context, r *Run) error {
		err := w.everywhere(ctx, r, func(p *process) func(context.Context) {
			return func(ctx context.Context) { p.readsTurn(ctx) }
		})
		if err != nil {
			return err
		}
		return w.readAll(ctx, r)
	}
	return w
}

func (p *process) readsTurn(ctx context.Context) {
	switch draw := p.chance.IntN(100); {
	case draw < 50 && !p.reads:
		key := "l-" + strconv.Itoa(p.chance.IntN(readKeys))
		if e := p.patch(ctx, key, p.value(), history.Item{}); e.Refused == history.Absent {
			p.create(ctx, key, p.value())
		}
	case draw < 70:
		p.list(ctx, "list", "")
	case draw < 85:
		p.list(ctx, "list", "0")
	default:
		// As new as anything that anybody was told; now and then somewhat older.
		level := p.run.latest.Load()
		if p.chance.IntN(4) == 0 && level > 20 {
			level -= p.chance.Uint64N(20)
		}
		p.list(ctx, "list", strconv.FormatUint(max(level, 1), 10))
	}
}

func judgeReads(h judged) []check.Anomaly {
	var writes []check.ObjectWrite
	var lists []check.Shown
	var latest []check.Point                // what must be linearizable
	local := make(map[string][]check.Point) // what must not go back, by life of a node's process
	var found []check.Anomaly
	for _, op := range h.ops {
		switch {
		case op.Call.F != "list" && op.Call.F != final:
			writes = append(writes, objectWrite(op))
			continue
		case op.Return.Type != history.OK:
			continue
		}
		lists = append(lists, shown(op))
		point := check.Point{Span: op.Span(), Outcome: check.OK, Revision: op.Return.Revision, What: op.String()}
		if op.Call.Level == "" {
			latest = append(latest, point)
			continue
		}
		if level, err := strconv.ParseUint(op.Call.Level, 10, 64); err == nil && op.Return.Revision < level {
			found = append(found, check.Anomaly{Kind: "older than asked for", Text: op.String(), At: []int64{op.Call.Index}})
		}
		if life, ok := h.lives.Of(op); ok {
			process := fmt.Sprintf("%s, life %d", op.Call.Node, life)
			local[process] = append(local[process], point)
		}
	}
	timeline, bad := check.Evidence(writes, lists)
	found = append(found, bad...)
	bad, points := timeline.Writes(writes)
	found = append(found, bad...)
	found = append(found, timeline.Lists(lists)...)
	found = append(found, check.RealTime(append(points, latest...))...)
	for _, process := range sortedKeys(local) {
		found = append(found, check.RealTime(local[process])...)
	}
	return found
}

// objectWrite is a write as the checkers of objects know it.
func objectWrite(op history.Op) check.ObjectWrite {
	return check.ObjectWrite{
		Span: op.Span(), What: op.String(), Key: op.Call.Key, Value: op.Call.Value, Deleted: op.Call.F == "delete",
		Outcome: op.Outcome(), Refused: op.Return.Refused != "", Revision: op.Return.Revision,
	}
}

// shown is a list as the checkers of objects know it.
func shown(op history.Op) check.Shown {
	s := check.Shown{Span: op.Span(), What: op.String(), Revision: op.Return.Revision, Objects: objectsOf(op.Return.Items)}
	return s
}

func objectsOf(items []history.Item) map[string]check.Object {
	objects := make(map[string]check.Object, len(items))
	for _, item := range items {
		objects[item.Key] = check.Object{Value: item.Value, Revision: item.Revision}
	}
	return objects
}
