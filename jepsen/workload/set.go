package workload

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
)

// elementsPerObject bounds the objects that hold the set.
const elementsPerObject = 50

// set has clients on all nodes add elements to the same ConfigMaps, by merge patches:
// each is a read and a write inside of the API, and none may take another's back.
func set() Workload {
	w := Workload{
		Name:  "set",
		About: "what was added to an object that others add to at the same time is there for ever, and nothing else",
		judge: judgeSet,
	}
	w.run = func(ctx context.Context, r *Run) error {
		var elements atomic.Int64
		err := w.everywhere(ctx, r, func(p *process) func(context.Context) {
			return func(ctx context.Context) {
				n := elements.Add(1)
				p.add(ctx, "s-"+strconv.FormatInt(n/elementsPerObject, 10), "e-"+strconv.FormatInt(n, 10))
			}
		})
		if err != nil {
			return err
		}
		return w.readElements(ctx, r)
	}
	return w
}

// add adds an element to an object, or makes the object with it.
func (p *process) add(ctx context.Context, key, element string) {
	e := p.do(ctx, history.Event{F: "add", Key: key, Value: element}, writeTime, func(ctx context.Context, answer *history.Event) error {
		cm, err := p.mergePatch(ctx, key, map[string]any{"data": map[string]string{element: p.node}})
		if err != nil {
			return err
		}
		return answered(answer, cm)
	})
	if e.Refused == history.Absent {
		p.do(ctx, history.Event{F: "create", Key: key, Value: element}, writeTime, func(ctx context.Context, answer *history.Event) error {
			cm := p.object(key, "", 0)
			cm.Data = map[string]string{element: p.node}
			var made corev1.ConfigMap
			if err := p.configMaps(p.rest.Post()).Timeout(writeTime).Body(cm).Do(ctx).Into(&made); err != nil {
				return err
			}
			return answered(answer, &made)
		})
	}
}

// readElements reads the whole set through every node in the end. An item's value is
// its elements.
func (w Workload) readElements(ctx context.Context, r *Run) error {
	return w.throughEach(ctx, r, func(ctx context.Context, p *process) (failed error) {
		p.do(ctx, history.Event{F: final}, 5*time.Second, func(ctx context.Context, answer *history.Event) error {
			var list corev1.ConfigMapList
			failed = p.configMaps(p.rest.Get()).Do(ctx).Into(&list)
			if failed == nil {
				answer.Items = elementsOf(list.Items)
			}
			return failed
		})
		return failed
	})
}

func elementsOf(objects []corev1.ConfigMap) []history.Item {
	items := []history.Item{}
	for _, cm := range objects {
		if cm.Name == rootCA {
			continue
		}
		var elements []string
		for element := range cm.Data {
			elements = append(elements, element)
		}
		slices.Sort(elements)
		items = append(items, history.Item{Key: cm.Name, Value: strings.Join(elements, " ")})
	}
	return items
}

func judgeSet(h judged) []check.Anomaly {
	var adds []check.Add
	places := make(map[string]int) // element → place in adds
	for _, op := range h.ops {
		if op.Call.F != "add" && op.Call.F != "create" {
			continue
		}
		a := check.Add{Element: op.Call.Value, Outcome: op.Outcome(), Call: op.Call.Index}
		if op.Return.Refused != "" {
			a.Outcome = check.Failed
		}
		// An element whose object was not there is tried once more, with the object.
		if i, again := places[a.Element]; again {
			adds[i] = a
			continue
		}
		places[a.Element] = len(adds)
		adds = append(adds, a)
	}
	return eachFinal(h, func(op history.Op) []check.Anomaly {
		held := make(map[string]uint64)
		for _, item := range op.Return.Items {
			for _, element := range strings.Fields(item.Value) {
				held[element]++
			}
		}
		return check.Set(adds, held)
	})
}
