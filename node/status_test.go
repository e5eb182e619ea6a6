package node

import (
	"strings"
	"testing"
	"time"

	"kontiki/gossip"
	"kontiki/raftstore"
)

// statusMembers makes members of a status: a voter is written in capitals, one that does not
// answer with an exclamation mark.
func statusMembers(list string) (members []Member) {
	for name := range strings.FieldsSeq(list) {
		m := Member{Role: "non-voter", Health: "alive"}
		if strings.HasSuffix(name, "!") {
			m.Health = "dead"
		}
		m.Name = strings.TrimSuffix(name, "!")
		if strings.ToUpper(m.Name) == m.Name {
			m.Role = "voter"
		}
		members = append(members, m)
	}
	return members
}

func TestLossesAreSaidInWords(t *testing.T) {
	for list, want := range map[string]string{
		"":           "",
		"A":          "1 voter, the only node: its disk is everything",
		"A b":        "1 voter of 2 nodes: the disk of A is everything",
		"A b c":      "1 voter of 3 nodes",
		"A B":        "2 voters: the loss of either stops writes",
		"A! B":       "1 of 2 voters answer, 2 are needed",
		"A B C d":    "3 of 3 voters answer: 1 more may be lost",
		"A! B C":     "2 of 3 voters answer: the next loss stops writes",
		"A! B! C":    "1 of 3 voters answer, 2 are needed",
		"A B C D E":  "5 of 5 voters answer: 2 more may be lost",
		"A! b c":     "0 of 1 voters answer, 1 are needed",
		"A! B C D E": "4 of 5 voters answer: 1 more may be lost",
	} {
		if got := losses(statusMembers(list)); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%q: %q, want %q", list, got, want)
		}
	}
}

func TestLastContact(t *testing.T) {
	lost, said := time.Unix(1000, 0).UTC(), time.Unix(2000, 0).UTC()
	for name, test := range map[string]struct {
		said  peer
		state gossip.State
		want  time.Time // zero: not known
	}{
		"it said so":                        {peer{at: said, status: raftstore.PeerStatus{Silence: 10 * time.Second}}, gossip.StateAlive, said.Add(-10 * time.Second)},
		"it leads":                          {peer{at: said}, gossip.StateAlive, said},
		"it never heard a leader":           {peer{at: said, status: raftstore.PeerStatus{Silence: -1}}, gossip.StateAlive, time.Time{}},
		"it was not asked yet":              {peer{}, gossip.StateAlive, time.Time{}},
		"it was lost before it could be":    {peer{}, gossip.StateDead, lost},
		"it was lost after it had said so":  {peer{at: said}, gossip.StateDead, said},
		"it is remembered and was not met":  {peer{}, gossip.StateUnknown, time.Time{}},
		"it left before it could be asked ": {peer{}, gossip.StateLeft, lost},
	} {
		got := lastContact(test.said, gossip.Member{State: test.state, Since: lost})
		if (got == nil) != test.want.IsZero() || got != nil && !got.Equal(test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
