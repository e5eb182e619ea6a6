package workload_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"kontiki/jepsen/history"
	"kontiki/jepsen/workload"
)

// parse reads a history that is written by hand, a line an event:
//
//	PROCESS NODE TYPE F [t=TIME] [since=N] [until=N] [e=ERROR] [k=KEY] [v=VALUE] [x=EXPECT] [at=N] [level=L] [rev=N] [refused=WHY] [items=KEY:VALUE:REVISION,…]
func parse(t *testing.T, of, text string) (events []history.Event) {
	t.Helper()
	for line := range strings.Lines(strings.TrimSpace(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		process, err := strconv.Atoi(fields[0])
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		e := history.Event{Index: int64(len(events)) + 1, Process: process, Node: fields[1], Type: history.Type(fields[2]), F: fields[3]}
		if process >= 0 {
			e.Workload = of
		}
		for _, field := range fields[4:] {
			name, value, _ := strings.Cut(field, "=")
			number, _ := strconv.ParseUint(value, 10, 64)
			switch name {
			case "k":
				e.Key = value
			case "v":
				e.Value = strings.ReplaceAll(value, "+", " ")
			case "x":
				e.Expect = value
			case "at":
				e.At = number
			case "t":
				e.Time = int64(number)
			case "since":
				e.Since = int64(number)
			case "until":
				e.Until = int64(number)
			case "e":
				e.Error = strings.ReplaceAll(value, "+", " ")
			case "level":
				e.Level = value
			case "rev":
				e.Revision = number
			case "refused":
				e.Refused = value
			case "items":
				e.Items = items(value)
			default:
				t.Fatalf("%q: what is %s?", line, name)
			}
		}
		events = append(events, e)
	}
	return events
}

func items(text string) []history.Item {
	all := []history.Item{}
	for _, one := range strings.Split(text, ",") {
		if parts := strings.Split(one, ":"); len(parts) == 3 {
			revision, _ := strconv.ParseUint(parts[2], 10, 64)
			all = append(all, history.Item{Key: parts[0], Value: strings.ReplaceAll(parts[1], "+", " "), Revision: revision})
		}
	}
	return all
}

// judgment is a history and the kind of error that must be found in it, none if that is empty.
type judgment struct{ name, history, want string }

func judge(t *testing.T, of string, judgments []judgment) {
	t.Helper()
	selected, err := workload.Select([]string{of})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range judgments {
		found := selected[0].Judge(parse(t, of, j.history))
		switch {
		case j.want == "" && len(found) > 0:
			t.Errorf("%s: %v", j.name, found)
		case j.want != "" && (len(found) == 0 || found[0].Kind != j.want):
			t.Errorf("%s: found %v, want %q", j.name, found, j.want)
		}
	}
}

func TestRegisterIsJudged(t *testing.T) {
	const made = `
		1 n1 invoke create k=r v=a
		1 n1 ok     create k=r v=a rev=5
		1 n1 invoke update k=r v=b x=a at=5
		1 n1 ok     update k=r v=b rev=6
		`
	judge(t, "register", []judgment{
		{"one after the other", made + `2 n2 invoke read k=r
			2 n2 ok read k=r v=b rev=6
			2 n2 invoke update k=r v=c x=a at=5
			2 n2 ok update k=r refused=conflict
			2 n2 invoke patch k=r v=d
			2 n2 ok patch k=r v=d rev=8
			2 n2 invoke delete k=r x=d at=8
			2 n2 ok delete k=r
			2 n2 invoke read k=r
			2 n2 ok read k=r refused=absent
			2 n2 invoke patch k=r v=e
			2 n2 ok patch k=r refused=absent`, ""},
		{"a stale read", made + `2 n2 invoke read k=r
			2 n2 ok read k=r v=a rev=5`, "not linearizable"},
		{"a read of what is there as absent", made + `2 n2 invoke read k=r
			2 n2 ok read k=r refused=absent`, "not linearizable"},
		{"two updates of one version", made + `2 n2 invoke update k=r v=c x=a at=5
			2 n2 ok update k=r v=c rev=7`, "not linearizable"},
		{"an update refused without a reason", made + `2 n2 invoke update k=r v=c x=b at=6
			2 n2 ok update k=r refused=conflict`, "not linearizable"},
		{"an update that was refused and happened", made + `2 n2 invoke update k=r v=c x=b at=6
			2 n2 ok update k=r refused=conflict
			2 n2 invoke read k=r
			2 n2 ok read k=r v=c rev=7`, "not linearizable"},
		{"a creation of what exists", made + `2 n2 invoke create k=r v=c
			2 n2 ok create k=r v=c rev=7`, "not linearizable"},
		{"a creation refused where nothing is", `2 n2 invoke create k=r v=c
			2 n2 ok create k=r refused=exists`, "not linearizable"},
		{"a deletion of an old version", made + `2 n2 invoke delete k=r x=a at=5
			2 n2 ok delete k=r`, "not linearizable"},
		{"a deletion that did nothing", made + `2 n2 invoke delete k=r
			2 n2 ok delete k=r
			2 n2 invoke read k=r
			2 n2 ok read k=r v=b rev=6`, "not linearizable"},
		{"a patch of what does not exist", `2 n2 invoke patch k=r v=c
			2 n2 ok patch k=r v=c rev=7`, "not linearizable"},
		{"a patch of unknown outcome shows later", made + `2 n2 invoke patch k=r v=c
			2 n2 info patch k=r
			2 n2 invoke read k=r
			2 n2 ok read k=r v=b rev=6
			2 n2 invoke read k=r
			2 n2 ok read k=r v=c rev=9`, ""},
		{"a failed update happened", made + `2 n2 invoke update k=r v=c x=b at=6
			2 n2 fail update k=r
			2 n2 invoke read k=r
			2 n2 ok read k=r v=c rev=7`, "not linearizable"},
		{"a creation of unknown outcome that only a patch notices", `1 n1 invoke create k=r v=a
			1 n1 info create k=r
			2 n2 invoke patch k=r v=b
			2 n2 ok patch k=r v=b rev=7`, ""},
		{"one that only a creation and a deletion notice", `1 n1 invoke create k=r v=a
			1 n1 info create k=r
			2 n2 invoke create k=r v=b
			2 n2 ok create k=r refused=exists
			2 n2 invoke delete k=r
			2 n2 ok delete k=r`, ""},
		{"a patch of unknown outcome that only an update notices", made + `1 n1 invoke patch k=r v=c
			1 n1 info patch k=r
			2 n2 invoke update k=r v=d x=b at=6
			2 n2 ok update k=r refused=conflict
			2 n2 invoke patch k=r v=e
			2 n2 ok patch k=r v=e rev=9`, ""},
		{"a register is lost altogether", made + `3 n3 invoke final
			3 n3 ok final items= rev=9`, "not linearizable"},
		{"a register that was deleted is not there in the end", made + `2 n2 invoke delete k=r
			2 n2 ok delete k=r
			3 n3 invoke final
			3 n3 ok final items= rev=9`, ""},
		{"an acknowledged write is gone in the end", made + `3 n3 invoke final
			3 n3 ok final items=r:a:5 rev=9`, "not linearizable"},
		{"revisions of two registers against their order", made + `2 n2 invoke create k=q v=z
			2 n2 ok create k=q v=z rev=4`, "a write in the past"},
		{"a node that does not answer in the end", made + `3 n3 invoke final
			3 n3 fail final`, "no answer in the end"},
	})
}

func TestCreateUniqueIsJudged(t *testing.T) {
	const rivals = `
		1 n1 invoke create k=u v=a
		2 n2 invoke create k=u v=b
		1 n1 ok create k=u v=a rev=5
		`
	const end = `
		9 n1 invoke final
		9 n1 ok final rev=9 items=`
	judge(t, "create-unique", []judgment{
		{"one does", rivals + `2 n2 ok create k=u refused=exists` + end + `u:a:5`, ""},
		{"one may have", `2 n2 invoke create k=u v=b
			2 n2 info create k=u
			1 n1 invoke create k=u v=a
			1 n1 ok create k=u refused=exists` + end + `u:b:5`, ""},
		{"both do", rivals + `2 n2 ok create k=u v=b rev=6` + end + `u:a:5`, "a name created twice"},
		{"it is not there", rivals + `2 n2 ok create k=u refused=exists` + end, "a lost write"},
		{"it is there as another's", rivals + `2 n2 info create k=u` + end + `u:b:6`, "a lost write"},
		{"who was refused did", `1 n1 invoke create k=u v=a
			1 n1 ok create k=u refused=exists` + end + `u:a:5`, "a write that was refused happened"},
		{"who failed did", `1 n1 invoke create k=u v=a
			1 n1 fail create k=u` + end + `u:a:5`, "a write that failed happened"},
		{"refused by nobody", `1 n1 invoke create k=u v=a
			1 n1 ok create k=u refused=exists` + end, "refused for no reason"},
		{"refused before anybody began", `1 n1 invoke create k=u v=a
			1 n1 ok create k=u refused=exists
			2 n2 invoke create k=u v=b
			2 n2 ok create k=u v=b rev=6` + end + `u:b:6`, "refused for no reason"},
		{"a name that existed for one is gone", `2 n2 invoke create k=u v=b
			2 n2 info create k=u
			1 n1 invoke create k=u v=a
			1 n1 ok create k=u refused=exists` + end, "a lost write"},
		{"a name that existed for one is created again", `2 n2 invoke create k=u v=b
			2 n2 info create k=u
			1 n1 invoke create k=u v=a
			1 n1 ok create k=u refused=exists
			3 n3 invoke create k=u v=c
			3 n3 ok create k=u v=c rev=7` + end + `u:c:7`, "refused for no reason"},
		{"nobody asked for it", rivals + `2 n2 ok create k=u refused=exists` + end + `u:a:5,x:y:7`, "a write from nowhere"},
	})
}

func TestSetIsJudged(t *testing.T) {
	const added = `
		1 n1 invoke add k=s-0 v=e-1
		1 n1 ok add k=s-0 refused=absent
		1 n1 invoke create k=s-0 v=e-1
		1 n1 ok create k=s-0 rev=5
		1 n1 invoke add k=s-0 v=e-2
		1 n1 ok add k=s-0 rev=6
		1 n1 invoke add k=s-0 v=e-3
		1 n1 info add k=s-0
		1 n1 invoke add k=s-0 v=e-4
		1 n1 fail add k=s-0
		9 n2 invoke final
		9 n2 ok final items=s-0:`
	judge(t, "set", []judgment{
		{"what was acknowledged", added + "e-1+e-2:0", ""},
		{"and what may be", added + "e-1+e-2+e-3:0", ""},
		{"one was taken back", added + "e-1:0", "a lost write"},
		{"the first was", added + "e-2:0", "a lost write"},
		{"one that failed is there", added + "e-1+e-2+e-4:0", "a write that failed happened"},
		{"one that nobody added", added + "e-1+e-2+e-7:0", "a write from nowhere"},
		{"one is in two objects", added + "e-1+e-2:0,s-1:e-2:0", "a write happened twice"},
	})
}

func TestReadsAreJudged(t *testing.T) {
	const written = `
		1 n1 invoke create k=a v=x
		1 n1 ok create k=a v=x rev=5
		1 n1 invoke patch k=a v=y
		1 n1 ok patch k=a v=y rev=8
		`
	judge(t, "reads", []judgment{
		{"each within its contract", written + `2 n2 invoke list
			2 n2 ok list rev=9 items=a:y:8
			2 n2 invoke list level=0
			2 n2 ok list level=0 rev=6 items=a:x:5
			2 n2 invoke list level=0
			2 n2 ok list level=0 rev=8 items=a:y:8
			2 n2 invoke list level=8
			2 n2 ok list rev=8 items=a:y:8`, ""},
		{"a stale list", written + `2 n2 invoke list
			2 n2 ok list rev=6 items=a:x:5`, "a stale read"},
		{"an old state under a new revision", written + `2 n2 invoke list
			2 n2 ok list rev=9 items=a:x:5`, "a wrong state"},
		{"a new state under an old revision", written + `2 n2 invoke list level=0
			2 n2 ok list level=0 rev=6 items=a:y:8`, "a wrong state"},
		{"local lists that go back", written + `2 n2 invoke list level=0
			2 n2 ok list rev=8 items=a:y:8
			2 n2 invoke list level=0
			2 n2 ok list rev=6 items=a:x:5`, "a stale read"},
		{"the same in another life of the process", written + `2 n2 invoke list level=0
			2 n2 ok list rev=8 items=a:y:8
			-1 n2 info ending
			-1 n2 info ended
			2 n2 invoke list level=0
			2 n2 ok list rev=6 items=a:x:5`, ""},
		{"the same on another node", written + `2 n2 invoke list level=0
			2 n2 ok list rev=8 items=a:y:8
			3 n3 invoke list level=0
			3 n3 ok list rev=6 items=a:x:5`, ""},
		{"older than asked for", written + `2 n2 invoke list level=8
			2 n2 ok list rev=6 items=a:x:5`, "older than asked for"},
		{"a write of unknown outcome happened", written + `1 n1 invoke patch k=a v=z
			1 n1 info patch k=a
			2 n2 invoke list
			2 n2 ok list rev=11 items=a:z:10`, ""},
		{"a write that failed happened", written + `1 n1 invoke patch k=a v=z
			1 n1 fail patch k=a
			2 n2 invoke list
			2 n2 ok list rev=11 items=a:z:10`, "a write that failed happened"},
		{"a write that was refused happened", written + `1 n1 invoke create k=a v=z
			1 n1 ok create k=a refused=exists
			2 n2 invoke list
			2 n2 ok list rev=11 items=a:z:10`, "a write that was refused happened"},
		{"a value that nobody wrote", written + `2 n2 invoke list
			2 n2 ok list rev=11 items=a:z:10`, "a write from nowhere"},
		{"a write of unknown outcome happened before it was called", written + `2 n2 invoke list
			2 n2 ok list rev=11 items=a:z:10
			1 n1 invoke patch k=a v=z
			1 n1 info patch k=a`, "a write in the past"},
		{"one revision in two states", written + `2 n2 invoke list level=0
			2 n2 ok list rev=9 items=a:y:8,b:q:9
			3 n3 invoke list level=0
			3 n3 ok list rev=9 items=a:y:8,b:r:9`, "accounts differ"},
	})
}

func TestWatchesAreJudged(t *testing.T) {
	// n1 lists and is told all; n2 is told what a case says.
	const changes = `
		1 n1 invoke list
		1 n1 ok list rev=4 items=a:v1:3
		1 n1 invoke watch at=4
		5 n1 invoke patch k=a v=v2
		5 n1 ok patch k=a v=v2 rev=6
		1 n1 info told k=a v=v2 rev=6 level=MODIFIED
		5 n1 invoke create k=b v=v3
		5 n1 ok create k=b v=v3 rev=8
		1 n1 info told k=b v=v3 rev=8 level=ADDED
		5 n1 invoke delete k=a
		5 n1 ok delete k=a
		1 n1 info told k=a v=v2 rev=9 level=DELETED
		5 n1 invoke create k=the-end v=v4
		5 n1 ok create k=the-end v=v4 rev=12
		1 n1 info told k=the-end v=v4 rev=12 level=ADDED
		1 n1 info told-all rev=12
		2 n2 invoke list
		2 n2 ok list rev=12 items=b:v3:8,the-end:v4:12
		2 n2 invoke watch at=4
		`
	const end = `
		2 n2 info told-all rev=12`
	const all = `2 n2 info told k=a v=v2 rev=6 level=MODIFIED
		2 n2 info told k=b v=v3 rev=8 level=ADDED
		2 n2 info told k=a v=v2 rev=9 level=DELETED
		2 n2 info told k=the-end v=v4 rev=12 level=ADDED`
	without := func(part string) string { return changes + strings.Replace(all, part, "2 n2 info nothing", 1) + end }
	judge(t, "watch", []judgment{
		{"all is told", changes + all + end, ""},
		{"with bookmarks", changes + strings.Replace(all, "2 n2 info told k=b", "2 n2 info told rev=7 level=BOOKMARK\n2 n2 info told k=b", 1) + end, ""},
		{"begun again where it ended", changes + strings.Replace(all, "2 n2 info told k=b", "2 n2 ok watch\n2 n2 invoke watch at=6\n2 n2 info told k=b", 1) + end, ""},
		{"the first is lost", without("2 n2 info told k=a v=v2 rev=6 level=MODIFIED"), "a watch lost an event"},
		{"a deletion is lost", without("2 n2 info told k=a v=v2 rev=9 level=DELETED"), "a watch lost an event"},
		{"one is lost while it was away", changes + strings.Replace(all, "2 n2 info told k=b v=v3 rev=8 level=ADDED", "2 n2 ok watch\n2 n2 invoke watch at=6", 1) + end, "a watch lost an event"},
		{"one is told twice", changes + strings.Replace(all, "2 n2 info told k=b", "2 n2 info told k=a v=v2 rev=6 level=MODIFIED\n2 n2 info told k=b", 1) + end, "a watch repeats or turns back"},
		{"two in the wrong order", changes + `2 n2 info told k=b v=v3 rev=8 level=ADDED
			2 n2 info told k=a v=v2 rev=6 level=MODIFIED
			2 n2 info told k=a v=v2 rev=9 level=DELETED
			2 n2 info told k=the-end v=v4 rev=12 level=ADDED` + end, "a watch lost an event"},
		{"a bookmark that says too much", changes + strings.Replace(all, "2 n2 info told k=b", "2 n2 info told rev=8 level=BOOKMARK\n2 n2 info told k=b", 1) + end, "a watch lost an event"},
		{"a bookmark that turns back", changes + strings.Replace(all, "2 n2 info told k=b", "2 n2 info told rev=5 level=BOOKMARK\n2 n2 info told k=b", 1) + end, "a watch repeats or turns back"},
		{"another value", changes + strings.Replace(all, "v=v3", "v=v9", 1) + end, "accounts differ"},
		{"a creation of what exists", strings.Replace(changes+all+end, "MODIFIED", "ADDED", 2), "a wrong event"},
		{"a write that nobody is told of", strings.Replace(changes, "1 n1 info told k=a v=v2 rev=6 level=MODIFIED", "1 n1 info nothing", 1) +
			strings.Replace(all, "2 n2 info told k=a v=v2 rev=6 level=MODIFIED", "2 n2 info nothing", 1) + end, "a wrong event"},
		{"a last write that nobody is told of", changes + all + end + "\n5 n1 invoke patch k=b v=v5\n5 n1 ok patch k=b v=v5 rev=11", "a lost write"},
		{"a change that nobody made", strings.ReplaceAll(changes+all+end, "k=b v=v3 rev=8 level", "k=b v=v7 rev=8 level"), "a lost write"},
		{"a failed write happened", strings.Replace(changes+all+end, "5 n1 ok create k=b v=v3 rev=8", "5 n1 fail create k=b", 1), "a write that failed happened"},
		{"a deletion that nobody is told of", strings.Replace(changes, "5 n1 invoke create k=the-end", "5 n1 invoke delete k=b\n5 n1 ok delete k=b\n5 n1 invoke create k=the-end", 1) + all + end, "a lost write"},
		{"two deletions of which one is told", strings.Replace(changes, "5 n1 ok delete k=a", "6 n2 invoke delete k=a\n6 n2 ok delete k=a\n5 n1 ok delete k=a", 1) + all + end, "a lost write"},
		{"two of which one was refused", strings.Replace(changes, "5 n1 ok delete k=a", "6 n2 invoke delete k=a\n6 n2 ok delete k=a refused=absent\n5 n1 ok delete k=a", 1) + all + end, ""},
		{"two of which one never returned", strings.Replace(changes, "5 n1 ok delete k=a", "6 n2 invoke delete k=a\n6 n2 info delete k=a\n5 n1 ok delete k=a", 1) + all + end, ""},
		{"a deletion that only happened later", strings.Replace(strings.Replace(changes, "5 n1 invoke delete k=a\n", "", 1), "5 n1 ok delete k=a\n", "", 1) +
			"5 n1 invoke delete k=a\n5 n1 info delete k=a\n" + all + end, "a write from nowhere"},
		{"a deletion that failed", strings.Replace(changes, "5 n1 ok delete k=a", "5 n1 fail delete k=a", 1) + all + end, "a write from nowhere"},
		{"one of unknown outcome", strings.Replace(changes, "5 n1 ok delete k=a", "5 n1 info delete k=a", 1) + all + end, ""},
		{"what happened before the first watch", "5 n1 invoke create k=c v=w1\n5 n1 ok create k=c v=w1 rev=1\n5 n1 invoke delete k=c\n5 n1 ok delete k=c\n" + strings.TrimLeft(changes, "\n") + all + end, ""},
		{"what happened while nobody watched", strings.Replace(changes, "2 n2 invoke watch at=4", `1 n1 invoke list
			1 n1 ok list rev=20 items=the-end:v4:12
			1 n1 invoke watch at=20
			1 n1 info told k=b v=v5 rev=21 level=ADDED
			5 n1 invoke create k=b v=v5
			5 n1 ok create k=b v=v5 rev=21
			1 n1 info told-all rev=21
			2 n2 invoke watch at=4`, 1) + all + end, ""},
		{"a list that does not add up", changes + all + end + "\n3 n1 invoke final\n3 n1 ok final rev=12 items=a:v2:6,b:v3:8,the-end:v4:12", "a wrong state"},
		{"a stale list in the end", changes + all + end + "\n3 n1 invoke final\n3 n1 ok final rev=8 items=a:v2:6,b:v3:8", "a stale read"},
		{"one that falls behind", changes + all, "a watch fell behind"},
		{"no end", strings.ReplaceAll(changes+all+end, "the-end", "c"), "no answer in the end"},
	})
}

// TestUnproven: a history in which nothing is wrong is no proof if nothing happened in it.
func TestUnproven(t *testing.T) {
	const written = "1 n1 invoke create k=a v=x\n1 n1 %s\n2 n2 invoke list\n2 n2 ok list rev=9 items=a:x:5"
	const watched = `
		1 n1 invoke list
		1 n1 ok list rev=4 items=
		1 n1 invoke watch at=4
		5 n1 invoke create k=a v=x
		5 n1 ok create k=a v=x rev=6
		1 n1 info told k=a v=x rev=6 level=ADDED
		1 n1 ok watch
		%s
		1 n1 info told k=the-end v=y rev=12 level=ADDED
		5 n1 invoke create k=the-end v=y
		5 n1 ok create k=the-end v=y rev=12`
	for name, c := range map[string]struct {
		of, history string
		want        int
	}{
		"a write":            {"reads", fmt.Sprintf(written, "ok create k=a v=x rev=5"), 0},
		"one that failed":    {"reads", fmt.Sprintf(written, "fail create k=a"), 1},
		"one refused":        {"register", fmt.Sprintf(written, "ok create k=a refused=exists"), 1},
		"nothing":            {"set", "9 n1 invoke final\n9 n1 ok final items=", 1},
		"watches without":    {"watch", fmt.Sprintf(watched, "1 n1 invoke watch at=6"), 0},
		"watches with a gap": {"watch", fmt.Sprintf(watched, "1 n1 invoke watch at=8"), 1},
	} {
		selected, err := workload.Select([]string{c.of})
		if err != nil {
			t.Fatal(err)
		}
		if got := selected[0].Unproven(parse(t, c.of, c.history)); len(got) != c.want {
			t.Errorf("%s: %q, want %d", name, got, c.want)
		}
	}
}

func TestSelect(t *testing.T) {
	if all, err := workload.Select([]string{"all"}); err != nil || len(all) != len(workload.Names()) {
		t.Errorf("all: %d, %v", len(all), err)
	}
	for _, names := range [][]string{{"nothing"}, {"set", "set"}, {"all", "set"}} {
		if selected, err := workload.Select(names); err == nil {
			t.Errorf("%v selects %v", names, selected)
		}
	}
}
