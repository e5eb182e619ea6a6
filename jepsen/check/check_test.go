package check_test

import (
	"strings"
	"testing"
	"time"

	"kontiki/jepsen/check"
)

// judged compares what a checker found with the kind that it should find, none if
// that is empty.
func judged(t *testing.T, name, want string, found []check.Anomaly) {
	t.Helper()
	switch {
	case want == "" && len(found) > 0:
		t.Errorf("%s: %v", name, found)
	case want != "" && len(found) == 0:
		t.Errorf("%s: nothing was found, want %q", name, want)
	case want != "" && found[0].Kind != want:
		t.Errorf("%s: %v, want %q", name, found, want)
	}
}

func span(call, ret int64) check.Span { return check.Span{Call: call, Return: ret} }

func TestRealTime(t *testing.T) {
	write := func(call, ret int64, revision uint64) check.Point {
		return check.Point{Span: span(call, ret), Outcome: check.OK, Revision: revision, Changed: true, What: "write"}
	}
	read := func(call, ret int64, revision uint64) check.Point {
		return check.Point{Span: span(call, ret), Outcome: check.OK, Revision: revision, What: "read"}
	}
	late := write(1, 0, 9)
	late.Outcome = check.Unknown
	for name, c := range map[string]struct {
		points []check.Point
		want   string
	}{
		"in order":                                       {[]check.Point{write(1, 2, 2), read(3, 4, 2), write(5, 6, 3)}, ""},
		"at once, the other way round":                   {[]check.Point{write(1, 9, 3), write(2, 8, 2), read(3, 7, 2), read(4, 5, 3)}, ""},
		"a read of what is not acknowledged":             {[]check.Point{write(1, 9, 3), read(2, 3, 3), read(4, 5, 3)}, ""},
		"reads that go back":                             {[]check.Point{write(1, 9, 3), read(2, 3, 3), read(4, 5, 2)}, "a stale read"},
		"a read older than a write":                      {[]check.Point{write(1, 2, 2), write(3, 4, 3), read(5, 6, 2)}, "a stale read"},
		"a write before one that returned":               {[]check.Point{write(1, 2, 3), write(3, 4, 2)}, "a write in the past"},
		"an unknown write happens late":                  {[]check.Point{late, write(2, 3, 2), read(4, 5, 2)}, ""},
		"an unknown write happened before it was called": {[]check.Point{write(1, 2, 5), {Span: span(3, 0), Outcome: check.Unknown, Revision: 4, Changed: true}}, "a write in the past"},
	} {
		judged(t, name, c.want, check.RealTime(c.points))
	}
}

func TestSet(t *testing.T) {
	adds := []check.Add{{Element: "a", Outcome: check.OK}, {Element: "b", Outcome: check.Failed}, {Element: "c", Outcome: check.Unknown}}
	for name, c := range map[string]struct {
		held map[string]uint64
		want string
	}{
		"what was acknowledged":     {map[string]uint64{"a": 1}, ""},
		"and what may be":           {map[string]uint64{"a": 1, "c": 1}, ""},
		"one is lost":               {map[string]uint64{"c": 1}, "a lost write"},
		"one happened twice":        {map[string]uint64{"a": 2}, "a write happened twice"},
		"an unknown one twice":      {map[string]uint64{"a": 1, "c": 2}, "a write happened twice"},
		"one that failed is there":  {map[string]uint64{"a": 1, "b": 1}, "a write that failed happened"},
		"one that nobody asked for": {map[string]uint64{"a": 1, "d": 1}, "a write from nowhere"},
	} {
		judged(t, name, c.want, check.Set(adds, c.held))
	}
	judged(t, "all counts", "", check.Counter("n", 3, 3, 0))
	judged(t, "an unknown count", "", check.Counter("n", 4, 3, 1))
	judged(t, "a count is lost", "a lost write", check.Counter("n", 2, 3, 0))
	judged(t, "a count was applied twice", "a write happened twice", check.Counter("n", 4, 3, 0))
}

func TestRegisters(t *testing.T) {
	v := func(value string, revision uint64) check.Version {
		return check.Version{Value: value, Revision: revision}
	}
	write := func(call, ret int64, made check.Version) check.RegisterOp {
		return check.RegisterOp{Span: span(call, ret), Key: "k", Kind: check.Write, Outcome: check.OK, New: made.Value, Seen: made}
	}
	read := func(call, ret int64, seen check.Version) check.RegisterOp {
		return check.RegisterOp{Span: span(call, ret), Key: "k", Kind: check.Read, Outcome: check.OK, Seen: seen}
	}
	swap := func(call, ret int64, expect, made check.Version) check.RegisterOp {
		return check.RegisterOp{Span: span(call, ret), Key: "k", Kind: check.Swap, Outcome: check.OK, Expect: expect, New: made.Value, Swapped: true, Seen: made}
	}
	refused := func(call, ret int64, expect, seen check.Version) check.RegisterOp {
		return check.RegisterOp{Span: span(call, ret), Key: "k", Kind: check.Swap, Outcome: check.OK, Expect: expect, New: "never", Seen: seen}
	}
	unknown := func(op check.RegisterOp) check.RegisterOp {
		op.Outcome, op.Seen, op.Return = check.Unknown, check.Version{}, 0
		return op
	}
	none := check.Version{}
	for name, c := range map[string]struct {
		ops  []check.RegisterOp
		want string
	}{
		"one after the other":                {[]check.RegisterOp{read(1, 2, none), write(3, 4, v("a", 2)), read(5, 6, v("a", 2)), swap(7, 8, v("a", 2), v("b", 3)), refused(9, 10, v("a", 2), v("b", 3))}, ""},
		"a stale read":                       {[]check.RegisterOp{write(1, 2, v("a", 2)), write(3, 4, v("b", 3)), read(5, 6, v("a", 2))}, "not linearizable"},
		"reads at once":                      {[]check.RegisterOp{write(1, 2, v("a", 2)), write(3, 9, v("b", 3)), read(4, 5, v("a", 2)), read(6, 7, v("b", 3))}, ""},
		"reads that go back":                 {[]check.RegisterOp{write(1, 2, v("a", 2)), write(3, 9, v("b", 3)), read(4, 5, v("b", 3)), read(6, 7, v("a", 2))}, "not linearizable"},
		"two swaps of one version":           {[]check.RegisterOp{write(1, 2, v("a", 2)), swap(3, 4, v("a", 2), v("b", 3)), swap(3, 5, v("a", 2), v("c", 4))}, "not linearizable"},
		"a swap refused for no reason":       {[]check.RegisterOp{write(1, 2, v("a", 2)), refused(3, 4, v("a", 2), v("a", 2))}, "not linearizable"},
		"an unknown write shows late":        {[]check.RegisterOp{write(1, 2, v("a", 2)), unknown(write(3, 4, v("b", 0))), read(5, 6, v("a", 2)), read(7, 8, v("b", 3))}, ""},
		"an unknown write shows early":       {[]check.RegisterOp{read(1, 2, v("b", 3)), unknown(write(3, 4, v("b", 0)))}, "not linearizable"},
		"it happened twice":                  {[]check.RegisterOp{unknown(write(1, 2, v("b", 0))), read(3, 4, v("b", 3)), write(5, 6, v("c", 4)), read(7, 8, v("b", 5))}, "not linearizable"},
		"an unknown swap of what is no more": {[]check.RegisterOp{write(1, 2, v("a", 2)), write(3, 4, v("b", 3)), unknown(swap(5, 6, v("a", 2), v("c", 0))), read(7, 8, v("c", 4))}, "not linearizable"},
		"a delete":                           {[]check.RegisterOp{write(1, 2, v("a", 2)), {Span: span(3, 4), Key: "k", Kind: check.Delete, Outcome: check.OK}, read(5, 6, none), swap(7, 8, none, v("b", 4))}, ""},
		"what was deleted is read":           {[]check.RegisterOp{write(1, 2, v("a", 2)), {Span: span(3, 4), Key: "k", Kind: check.Delete, Outcome: check.OK}, read(5, 6, v("a", 2))}, "not linearizable"},
	} {
		judged(t, name, c.want, check.Registers(c.ops, time.Minute))
	}
}

// history is a log of four changes of two keys.
func history() []check.Change {
	a2 := check.Entry{Value: "1", Create: 2, Mod: 2, Version: 1}
	b3 := check.Entry{Value: "2", Create: 3, Mod: 3, Version: 1}
	a4 := check.Entry{Value: "3", Create: 2, Mod: 4, Version: 2}
	return []check.Change{
		{Key: "a", Now: a2}, {Key: "b", Now: b3}, {Key: "a", Now: a4, Prev: a2},
		{Key: "b", Deleted: true, Now: check.Entry{Create: 3, Mod: 5, Version: 2}, Prev: b3},
	}
}

func mustLog(t *testing.T) *check.Log {
	t.Helper()
	l, found := check.NewLog(1, history())
	judged(t, "a log", "", found)
	if l.Top() != 5 || l.At("a", 3).Value != "1" || l.At("a", 9).Value != "3" || l.At("b", 4).Value != "2" || l.At("b", 5) != (check.Entry{}) || l.At("a", 1) != (check.Entry{}) {
		t.Fatalf("the log does not show its keys: %+v", l)
	}
	return l
}

func TestLog(t *testing.T) {
	changed := func(i int, change func(*check.Change)) []check.Change {
		h := history()
		change(&h[i])
		return h
	}
	for name, c := range map[string]struct {
		told [][]check.Change
		want string
	}{
		"two tell parts":           {[][]check.Change{history()[:3], history()[1:]}, ""},
		"two tell differently":     {[][]check.Change{history(), changed(1, func(c *check.Change) { c.Now.Value = "x" })}, "watches differ"},
		"nobody tells of one":      {[][]check.Change{history()[:1], history()[2:]}, "undecided"},
		"a wrong previous value":   {[][]check.Change{changed(2, func(c *check.Change) { c.Prev.Value = "x" })}, "a wrong previous value"},
		"no previous value":        {[][]check.Change{changed(2, func(c *check.Change) { c.Prev = check.Entry{} })}, "a wrong previous value"},
		"a wrong version":          {[][]check.Change{changed(2, func(c *check.Change) { c.Now.Version = 3 })}, "a wrong event"},
		"a wrong create revision":  {[][]check.Change{changed(2, func(c *check.Change) { c.Now.Create = 4 })}, "a wrong event"},
		"a delete of nothing":      {[][]check.Change{changed(0, func(c *check.Change) { c.Deleted = true; c.Now.Value = "" })}, "a wrong event"},
		"one value, written twice": {[][]check.Change{changed(2, func(c *check.Change) { c.Now.Value = "1" })}, "a write happened twice"},
	} {
		_, found := check.NewLog(1, c.told...)
		judged(t, name, c.want, found)
	}
}

func TestWatches(t *testing.T) {
	l, h := mustLog(t), history()
	a2 := map[string]check.Entry{"a": h[0].Now}
	a4 := map[string]check.Entry{"a": h[2].Now}
	for name, c := range map[string]struct {
		w    check.Watch
		want string
	}{
		"from the beginning":          {check.Watch{From: 1, Start: map[string]check.Entry{}, Told: h, Through: 5, End: a4}, ""},
		"of a prefix":                 {check.Watch{Prefix: "a", From: 2, Start: a2, Told: h[2:3], Through: 5, End: a4}, ""},
		"so far":                      {check.Watch{From: 1, Told: h[:2], Through: 3}, ""},
		"nothing concerned it":        {check.Watch{Prefix: "c", From: 1, Start: map[string]check.Entry{}, Through: 5}, ""},
		"the first is missing":        {check.Watch{From: 1, Told: h[1:], Through: 5}, "a watch lost an event"},
		"one in the middle":           {check.Watch{From: 1, Told: append(h[:1:1], h[2:]...), Through: 5}, "a watch lost an event"},
		"the last":                    {check.Watch{From: 1, Told: h[:3], Through: 5}, "a watch lost an event"},
		"one of its prefix":           {check.Watch{Prefix: "a", From: 1, Told: h[:1], Through: 5}, "a watch lost an event"},
		"one comes twice":             {check.Watch{From: 1, Told: append(h[:2:2], h[1:]...), Through: 5}, "a watch repeats or turns back"},
		"two in the wrong order":      {check.Watch{From: 3, Told: []check.Change{h[3], h[2]}, Through: 5}, "a watch lost an event"},
		"one that was in the list":    {check.Watch{From: 2, Start: a2, Told: h, Through: 5}, "a watch repeats or turns back"},
		"one of another prefix":       {check.Watch{Prefix: "a", From: 1, Told: h, Through: 5}, "a watch repeats or turns back"},
		"an older list":               {check.Watch{From: 4, Start: a2, Told: h[3:], Through: 5}, "a wrong state"},
		"a list with what is no more": {check.Watch{From: 5, Start: map[string]check.Entry{"a": h[2].Now, "b": h[1].Now}, Through: 5}, "a wrong state"},
		"another end":                 {check.Watch{From: 1, Told: h, Through: 5, End: a2}, "a wrong state"},
	} {
		judged(t, name, c.want, check.Watches(l, []check.Watch{c.w}))
	}
	judged(t, "a view", "", check.Views(l, []check.Seen{{Revision: 3, Keys: map[string]check.Entry{"a": h[0].Now, "b": h[1].Now, "c": {}}}}))
	judged(t, "a view of two revisions", "a wrong state", check.Views(l, []check.Seen{{Revision: 3, Keys: map[string]check.Entry{"a": h[2].Now, "b": h[1].Now}}}))
}

func TestTxns(t *testing.T) {
	l, h := mustLog(t), history()
	first := check.Txn{What: "first", Outcome: check.OK, Compares: []check.Compare{{Key: "a"}}, Updates: []check.Update{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}},
		Succeeded: true, Revision: 3, Revisions: []uint64{2, 3}}
	second := check.Txn{What: "second", Outcome: check.OK, Compares: []check.Compare{{"a", 2}, {"b", 3}}, Updates: []check.Update{{Key: "a", Value: "3"}, {Key: "b", Deleted: true}},
		Succeeded: true, Revision: 5, Revisions: []uint64{4, 5}}
	refused := check.Txn{What: "refused", Outcome: check.OK, Compares: []check.Compare{{"a", 2}}, Updates: []check.Update{{Key: "a", Value: "9"}},
		Revision: 4, Current: []check.Entry{h[2].Now}}
	with := func(t check.Txn, change func(*check.Txn)) check.Txn {
		t.Compares = append([]check.Compare(nil), t.Compares...)
		change(&t)
		return t
	}
	unknown := func(t check.Txn) check.Txn {
		return check.Txn{What: t.What, Outcome: check.Unknown, Compares: t.Compares, Updates: t.Updates}
	}
	for name, c := range map[string]struct {
		txns []check.Txn
		want string
	}{
		"as they were":              {[]check.Txn{first, second, refused}, ""},
		"of unknown outcome":        {[]check.Txn{unknown(first), unknown(second), refused}, ""},
		"one that is not there":     {[]check.Txn{first, second, unknown(refused)}, ""},
		"one failed and happened":   {[]check.Txn{with(first, func(t *check.Txn) { t.Outcome = check.Failed }), second}, "a write that failed happened"},
		"one refused and happened":  {[]check.Txn{first, second, with(refused, func(t *check.Txn) { t.Updates = second.Updates })}, "a write that failed happened"},
		"one is lost":               {[]check.Txn{first, second, with(refused, func(t *check.Txn) { t.Succeeded, t.Revision, t.Revisions = true, 6, []uint64{6} })}, "a lost write"},
		"another took its revision": {[]check.Txn{first, second, with(first, func(t *check.Txn) { t.Updates = []check.Update{{Key: "a", Value: "8"}, {Key: "b", Value: "9"}} })}, "a lost write"},
		"a compare did not hold":    {[]check.Txn{first, with(second, func(t *check.Txn) { t.Compares[1].Mod = 2 })}, "not serializable"},
		"nor of an unknown one":     {[]check.Txn{first, unknown(with(second, func(t *check.Txn) { t.Compares[0].Mod = 0 }))}, "not serializable"},
		"refused without a reason":  {[]check.Txn{first, second, with(refused, func(t *check.Txn) { t.Compares[0].Mod = 4 })}, "not serializable"},
		"refused by what was not":   {[]check.Txn{first, second, with(refused, func(t *check.Txn) { t.Current = []check.Entry{h[0].Now} })}, "not serializable"},
		"revisions apart":           {[]check.Txn{with(first, func(t *check.Txn) { t.Revisions = []uint64{2, 4} }), second}, "a torn transaction"},
		"half of an unknown one":    {[]check.Txn{unknown(with(first, func(t *check.Txn) { t.Updates = append(t.Updates, check.Update{Key: "c", Value: "7"}) })), second}, "a torn transaction"},
		"a delete that nobody did":  {[]check.Txn{first, {Outcome: check.Unknown, Updates: []check.Update{{Key: "a", Value: "3"}}}}, "a write from nowhere"},
		"a put that nobody wrote":   {[]check.Txn{second}, "a write from nowhere"},
		"a delete left out":         {[]check.Txn{first, with(second, func(t *check.Txn) { t.Revisions, t.Revision = []uint64{4, 0}, 4 })}, "a wrong result"},
	} {
		found, _ := check.Txns(l, c.txns, "ttl/")
		judged(t, name, c.want, found)
	}
	_, points := check.Txns(l, []check.Txn{first, unknown(second), refused}, "ttl/")
	if len(points) != 3 || points[0].Revision != 3 || points[1].Revision != 4 || points[1].Outcome != check.Unknown || points[2].Changed {
		t.Errorf("points: %+v", points)
	}
}

func TestLeases(t *testing.T) {
	l := mustLog(t)
	at := time.Unix(1000, 0)
	grants := []check.Grant{{"2", at, 10 * time.Second}, {"3", at, 20 * time.Second}}
	for name, c := range map[string]struct {
		ended time.Duration
		now   time.Duration
		want  string
	}{
		"in time":                {10 * time.Second, 20 * time.Second, ""},
		"within what clocks do":  {9 * time.Second, 20 * time.Second, ""},
		"early":                  {8 * time.Second, 20 * time.Second, "a key ended early"},
		"one is there for long":  {11 * time.Second, 30 * time.Second, "a key outlived its time"},
		"one is there for a bit": {11 * time.Second, 23 * time.Second, ""},
	} {
		seen := map[uint64]time.Time{5: at.Add(c.ended)}
		judged(t, name, c.want, check.Leases(l, "", grants, seen, time.Second, at.Add(c.now), 3*time.Second))
	}
}

func TestAnomaliesSayWhere(t *testing.T) {
	found := check.Set([]check.Add{{Element: "element-7", Outcome: check.OK}}, nil)
	if len(found) != 1 || !strings.Contains(found[0].String(), "a lost write: element-7") {
		t.Errorf("%v", found)
	}
}
