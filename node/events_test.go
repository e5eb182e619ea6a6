package node

import (
	"fmt"
	"strings"
	"testing"

	"kontiki/raftstore"
)

func TestMemberEvents(t *testing.T) {
	members := func(list string) (out []raftstore.Member) { // voters in capitals
		for id := range strings.FieldsSeq(list) {
			out = append(out, raftstore.Member{ID: strings.ToLower(id), Voter: id == strings.ToUpper(id)})
		}
		return out
	}
	for _, test := range []struct{ before, after, want string }{
		{"A B C", "A B C", ""},
		{"A B c", "A B C", "c VoteGiven Normal"},
		{"A B C", "a B C", "a VoteTaken Normal"},
		{"A", "A b", "b MemberJoined Normal"},
		{"A B c", "A C d", "c VoteGiven Normal, d MemberJoined Normal, b MemberLeft Warning"},
	} {
		var got []string
		for _, e := range memberEvents(members(test.before), members(test.after)) {
			got = append(got, fmt.Sprintf("%s %s %s", e.id, e.reason, e.kind))
		}
		if s := strings.Join(got, ", "); s != test.want {
			t.Errorf("%s → %s: %s, want %s", test.before, test.after, s, test.want)
		}
	}
}
