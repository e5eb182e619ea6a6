package gossip

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"
)

// TestFormationScripts runs testdata/formation. Commands:
//
//	nodes ids=(a,b) expect=3 settings=x     make and start nodes
//	trap id=a at=(propose|promise|grant|granted|abort|persist|found) when=(before|after)
//	                                        crash a at its next such output, before or after it is stored
//	run for=2s                              let time pass; prints what happened and where nodes stand
//	crash/start ids=(a,b)   cut a=(a,b) b=(c,d)   heal
//	hold from=a to=c kind=propose   release   keep such messages back; let them go
func TestFormationScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/formation", func(t *testing.T, path string) {
		s := newSim(rand.New(rand.NewSource(1)).Float64)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.log = nil
			s.command(t, d)
			for _, b := range s.broken {
				t.Errorf("%s: %s", d.Pos, b)
			}
			out := strings.Join(s.log, "\n")
			if d.Cmd == "run" {
				out += "\n" + s.summary()
			}
			return out
		})
	})
}

func (s *sim) command(t *testing.T, d *datadriven.TestData) {
	list := func(key string) []string {
		for _, a := range d.CmdArgs {
			if a.Key == key {
				return a.Vals
			}
		}
		return nil
	}
	one := func(key string) string {
		if v := list(key); len(v) == 1 {
			return v[0]
		}
		return ""
	}
	switch d.Cmd {
	case "nodes":
		expect := 3
		if v := one("expect"); v != "" {
			fmt.Sscan(v, &expect)
		}
		for _, id := range list("ids") {
			s.add(id, expect, one("settings"))
			s.boot(id)
		}
	case "start":
		for _, id := range list("ids") {
			s.boot(id)
		}
	case "crash":
		for _, id := range list("ids") {
			s.crash(id)
		}
	case "cut":
		for _, a := range list("a") {
			for _, b := range list("b") {
				s.cut[[2]string{a, b}], s.cut[[2]string{b, a}] = true, true
			}
		}
	case "heal":
		clear(s.cut)
	case "hold":
		from, to, kind := one("from"), one("to"), formKind(one("kind"))
		s.hold = func(f string, m formSend) bool { return f == from && m.to == to && m.msg.Kind == kind }
	case "release":
		s.hold = nil
		for _, e := range s.held {
			s.post(time.Millisecond, e)
		}
		s.held = nil
	case "trap":
		s.nodes[one("id")].trap = trapAt(one("at"), one("when"))
	case "run":
		span, err := time.ParseDuration(one("for"))
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.run(span)
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
}

// TestNeverTwoClusters throws crashes, cuts and a bad network at fewer than twice
// expect nodes; afterwards, with everything back, they must agree on one cluster.
func TestNeverTwoClusters(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		expect := rapid.IntRange(1, 4).Draw(rt, "expect")
		count := rapid.IntRange(expect, 2*expect-1).Draw(rt, "nodes")
		s := newSim(rand.New(rand.NewSource(rapid.Int64().Draw(rt, "seed"))).Float64)
		s.loss = rapid.Float64Range(0, 0.5).Draw(rt, "loss")
		s.double = rapid.Float64Range(0, 0.5).Draw(rt, "double")
		s.spread = time.Duration(rapid.IntRange(0, 3000).Draw(rt, "spread")) * time.Millisecond
		s.leak = rapid.Float64Range(0, 1).Draw(rt, "leak")
		s.calls = time.Duration(rapid.IntRange(0, 8000).Draw(rt, "calls")) * time.Millisecond
		s.crashes = rapid.Float64Range(0, 0.3).Draw(rt, "crashes")
		ids := make([]string, count)
		for i := range ids {
			ids[i] = string(rune('a' + i))
			s.add(ids[i], expect, "")
		}
		id := rapid.SampledFrom(ids)
		for range rapid.IntRange(5, 60).Draw(rt, "actions") {
			switch rapid.IntRange(0, 9).Draw(rt, "action") {
			case 0, 1, 2, 3:
				s.boot(id.Draw(rt, "start"))
			case 4:
				s.crash(id.Draw(rt, "crash"))
			case 5:
				a, b := id.Draw(rt, "from"), id.Draw(rt, "to")
				s.cut[[2]string{a, b}] = true
			case 6:
				clear(s.cut)
			default:
				s.run(time.Duration(rapid.IntRange(1, 4000).Draw(rt, "ms")) * time.Millisecond)
			}
			s.verify(rt, 1)
		}
		s.recover()
		s.verify(rt, 1)
		for _, id := range ids {
			if s.nodes[id].cluster == "" {
				rt.Fatalf("%s is in no cluster after everything came back\n%s%s", id, s.summary(), strings.Join(s.log, "\n"))
			}
		}
	})
}

// TestClustersNeverShareNodes is the same with many nodes, among which several
// clusters may form: each must have its own founders.
func TestClustersNeverShareNodes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newSim(rand.New(rand.NewSource(rapid.Int64().Draw(rt, "seed"))).Float64)
		s.loss, s.double, s.spread, s.crashes = 0.2, 0.2, time.Second, 0.1
		s.leak, s.calls = 0.5, 5*time.Second
		ids := strings.Split("abcdefghi", "")
		for _, id := range ids {
			s.add(id, 3, "")
		}
		id := rapid.SampledFrom(ids)
		for range rapid.IntRange(10, 80).Draw(rt, "actions") {
			switch rapid.IntRange(0, 5).Draw(rt, "action") {
			case 0, 1, 2:
				s.boot(id.Draw(rt, "start"))
			case 3:
				a, b := id.Draw(rt, "from"), id.Draw(rt, "to")
				s.cut[[2]string{a, b}] = true
			default:
				s.run(time.Duration(rapid.IntRange(1, 2000).Draw(rt, "ms")) * time.Millisecond)
			}
			s.verify(rt, 3)
		}
	})
}

// recover takes all faults away and waits for long.
func (s *sim) recover() {
	clear(s.cut)
	s.loss, s.double, s.crashes, s.spread, s.calls = 0, 0, 0, 0, 0
	for _, id := range s.ids() {
		s.boot(id)
	}
	s.run(5 * time.Minute)
}

func (s *sim) verify(rt *rapid.T, most int) {
	if len(s.clusters) > most {
		s.broken = append(s.broken, fmt.Sprintf("%d clusters were founded, %d are possible: %v", len(s.clusters), most, s.clusters))
	}
	if len(s.broken) > 0 {
		rt.Fatalf("%s\n%s%s", strings.Join(s.broken, "\n"), s.summary(), strings.Join(s.log, "\n"))
	}
}
