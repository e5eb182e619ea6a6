package raftstore

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func TestRankLeavesOutThoseWhoCannotWin(t *testing.T) {
	servers := []raft.Server{{ID: "c"}, {ID: "a"}, {ID: "n", Suffrage: raft.Nonvoter}, {ID: "b"}}
	for _, c := range []struct {
		self, leader raft.ServerID
		rank         int
	}{{"a", "c", 0}, {"b", "c", 1}, {"b", "a", 0}, {"c", "a", 1}, {"c", "", 2}, {"n", "a", 0}} {
		if got := rankOf(c.self, c.leader, servers); got != c.rank {
			t.Errorf("%s after leader %q has rank %d, expected %d", c.self, c.leader, got, c.rank)
		}
	}
}

// A voter that refuses because it has not noticed is asked again, until the
// candidate has waited long enough or is none any more.
func TestPreVoteIsAskedAgain(t *testing.T) {
	lost := errors.New("the voter is away")
	for _, c := range []struct {
		name    string
		answers []raft.RequestPreVoteResponse // the last one repeats
		fail    error
		granted bool
		asked   int
	}{
		{"granted at once", []raft.RequestPreVoteResponse{{Granted: true}}, nil, true, 1},
		{"away", nil, lost, false, 1},
		{"in a later term", []raft.RequestPreVoteResponse{{Term: 9}}, nil, false, 1},
		{"not a candidate any more", []raft.RequestPreVoteResponse{{}}, nil, false, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := &election{patience: time.Second, closing: make(chan struct{}), canLead: func() bool { return true }} // without Raft it seeks nothing
			asked := 0
			var resp raft.RequestPreVoteResponse
			err := e.askPreVote(&raft.RequestPreVoteRequest{Term: 5}, &resp, func(r *raft.RequestPreVoteResponse) error {
				asked++
				if c.fail != nil {
					return c.fail
				}
				*r = c.answers[min(asked, len(c.answers))-1]
				return nil
			})
			if !errors.Is(err, c.fail) || resp.Granted != c.granted || asked != c.asked {
				t.Errorf("%s: granted %v after %d questions, error %v", c.name, resp.Granted, asked, err)
			}
		})
	}
}
