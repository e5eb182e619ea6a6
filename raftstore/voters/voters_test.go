package voters

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

var start = time.Unix(1_000_000, 0)

var usual = Rules{Voters: 5, Stable: 10 * time.Second, Dead: time.Minute, Forget: 24 * time.Hour}

// TestDecide runs scripts. A line is a member:
//
//	ID voter|non-voter|outside [leader] [zone=Z] [wish=vote|novote] [ok=D] [fails=D] [gone]
//
// "decide" prints the change and all reasons; "settle" makes all changes, one after the
// other, and prints them and what is left.
func TestDecide(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			rules := usual
			if d.HasArg("voters") {
				d.ScanArgs(t, "voters", &rules.Voters)
			}
			var members []Member
			for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
				members = append(members, parseMember(t, d, line))
			}
			var out strings.Builder
			if d.Cmd == "settle" {
				for range 4 * len(members) {
					plan := Decide(start, rules, members)
					if plan.Change == nil {
						break
					}
					fmt.Fprintln(&out, plan.Change)
					members = after(members, *plan.Change)
				}
				fmt.Fprintln(&out, "voters:", strings.Join(votersOf(members), " "))
			}
			plan := Decide(start, rules, members)
			fmt.Fprintln(&out, "change:", plan.Change)
			for _, m := range members {
				fmt.Fprintf(&out, "%s: %s\n", m.ID, plan.Why[m.ID])
			}
			return out.String()
		})
	})
}

func parseMember(t *testing.T, d *datadriven.TestData, line string) Member {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		d.Fatalf(t, "no member: %q", line)
	}
	m := Member{ID: fields[0], Healthy: true, Since: start.Add(-time.Hour)}
	roles := map[string]Role{"voter": Voter, "non-voter": NonVoter, "outside": Outside}
	role, ok := roles[fields[1]]
	if !ok {
		d.Fatalf(t, "no role: %q", line)
	}
	m.Role = role
	for _, field := range fields[2:] {
		key, value, _ := strings.Cut(field, "=")
		long, _ := time.ParseDuration(value)
		switch key {
		case "leader":
			m.Leader = true
		case "zone":
			m.Zone = value
		case "wish":
			m.Wish = map[string]Wish{"vote": Vote, "novote": NoVote}[value]
		case "ok":
			m.Since = start.Add(-long)
		case "fails":
			m.Healthy, m.Since, m.Trouble = false, start.Add(-long), "no answer"
		case "gone":
			m.Gone, m.Trouble = m.Since, "dead"
		default:
			d.Fatalf(t, "what is %q in %q?", field, line)
		}
	}
	return m
}

func (c *Change) String() string {
	if c == nil {
		return "none"
	}
	return [...]string{Add: "add", Promote: "promote", Demote: "demote", Remove: "remove"}[c.Action] + " " + c.ID
}

// after makes a change.
func after(members []Member, c Change) []Member {
	out := append([]Member(nil), members...)
	for i := range out {
		if m := &out[i]; m.ID == c.ID {
			m.Role = map[Action]Role{Add: NonVoter, Promote: Voter, Demote: NonVoter, Remove: Outside}[c.Action]
		}
	}
	return out
}

func votersOf(members []Member) []string {
	var out []string
	for _, m := range members {
		if m.Role == Voter {
			out = append(out, m.ID)
		}
	}
	return out
}

func TestWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 s", 8 * time.Second: "8 s", 119 * time.Second: "119 s",
		3 * time.Minute: "3 min", 30 * time.Hour: "30 h",
	} {
		if got := Words(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
	if number(11) != strconv.Itoa(11) || number(5) != "five" {
		t.Error(number(11), number(5))
	}
}
