package raftstore

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// A healthy cluster shows nothing of Raft at info; what repeats is shown once in a while.
func TestRaftChatterIsDebug(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil)).With("room", "raftstore")
	l := newRaftLogger(log)
	l.Debug("a")
	l.Info("entering follower state")
	l.Warn("heartbeat timeout reached, starting election")
	l.Warn("rejecting pre-vote request since our last index is greater")
	if out.Len() > 0 {
		t.Errorf("shown at info:\n%s", &out)
	}
	for range 3 {
		l.With("peer", "n").Error("failed to heartbeat to")
		l.Warn("failed to contact")
	}
	if got := out.String(); strings.Count(got, "\n") != 2 || strings.Count(got, "room=") != 2 || !strings.Contains(got, "component=raft") {
		t.Errorf("shown:\n%s", got)
	}
}
