package workload

import (
	"context"
	"strconv"
	"sync/atomic"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
)

// createUnique has clients on all nodes create the same names at about the same time.
func createUnique() Workload {
	w := Workload{
		Name:  "create-unique",
		About: "of all who create one name, exactly one does; who is told that the name exists was not the one",
		judge: judgeUnique,
	}
	w.run = func(ctx context.Context, r *Run) error {
		var turns atomic.Int64
		rivals := int64(len(r.Nodes))
		err := w.everywhere(ctx, r, func(p *process) func(context.Context) {
			return func(ctx context.Context) {
				p.create(ctx, "u-"+strconv.FormatInt(turns.Add(1)/rivals, 10), p.value())
			}
		})
		if err != nil {
			return err
		}
		return w.readAll(ctx, r)
	}
	return w
}

func judgeUnique(h judged) []check.Anomaly {
	var claims []check.Claim
	for _, op := range h.ops {
		if op.Call.F == "create" {
			claims = append(claims, check.Claim{Span: op.Span(), Name: op.Call.Key, By: op.Call.Value, Outcome: op.Outcome(),
				Taken: op.Return.Refused == history.Exists})
		}
	}
	return eachFinal(h, func(op history.Op) []check.Anomaly {
		held := make(map[string]string)
		for _, item := range op.Return.Items {
			held[item.Key] = item.Value
		}
		return check.Unique(claims, held)
	})
}

// eachFinal judges what each node showed in the end. What several nodes show alike is
// told once.
func eachFinal(h judged, judge func(op history.Op) []check.Anomaly) []check.Anomaly {
	var found []check.Anomaly
	told := make(map[string]bool)
	for _, op := range h.finals() {
		for _, a := range judge(op) {
			if !told[a.String()] {
				told[a.String()] = true
				a.Text += " (as " + op.Call.Node + " shows in the end)"
				found = append(found, a)
			}
		}
	}
	return found
}
