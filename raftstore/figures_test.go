package raftstore

import "testing"

// TestLeadersAreCounted: one that leads again after an election is no other.
func TestLeadersAreCounted(t *testing.T) {
	f, before := newFigures(), Leadership{}
	for _, now := range []Leadership{
		{LeaderID: "a", Term: 1}, {Term: 2}, {LeaderID: "a", Term: 2}, {LeaderID: "b", Term: 3, Self: true},
		{LeaderID: "b", Term: 4, Self: true}, {Term: 5}, {LeaderID: "a", Term: 5},
	} {
		f.led(before, now)
		before = now
	}
	if seen, won := f.leaders.Load(), f.won.Load(); seen != 3 || won != 2 {
		t.Errorf("%d leaders seen, %d elections won", seen, won)
	}
}
