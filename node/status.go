package node

import (
	"cmp"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"kontiki/gossip"
	"kontiki/raftstore"
)

// Status is what a node says of itself and of its cluster.
type Status struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Version  string   `json:"version,omitempty"`
	Phase    string   `json:"phase"`
	Cluster  string   `json:"cluster,omitempty"`
	Role     string   `json:"role,omitempty"` // Raft's: Leader, Follower, Candidate
	Term     uint64   `json:"term,omitempty"`
	Leader   string   `json:"leader,omitempty"` // node id
	Revision uint64   `json:"revision"`
	Members  []Member `json:"members"`
	// JoinSecret tells how far the last change of the join secret has come; nil if it was
	// never changed.
	JoinSecret *SecretState `json:"joinSecret,omitempty"`
	// Problems are what is wrong, in words, with what to do about it.
	Problems []string `json:"problems"`
}

// Member is one member of the Raft group, or a blank node that the ring sees.
type Member struct {
	ID      string         `json:"id"`
	Name    string         `json:"name,omitempty"`
	Address netip.AddrPort `json:"address"`
	Role    string         `json:"role"`   // voter, non-voter
	Health  string         `json:"health"` // alive, dead, left, unknown: the ring's word
	Version string         `json:"version,omitempty"`
}

// status tells what boot has finished so far.
func (n *node) status() Status {
	s := Status{ID: n.id.ID, Name: n.cfg.Name, Version: n.cfg.Version, Phase: n.phase.Load().(string), Members: []Member{}, Problems: n.problems.list()}
	if behind := n.clock.Behind(); behind > time.Minute {
		s.Problems = append(s.Problems, fmt.Sprintf("the machine's clock is %v behind what this node knows: certificates are made and checked at %s; set the clock, or, if it is right, stop the node and delete %s",
			behind.Round(time.Minute), n.now().UTC().Format(time.RFC3339), filepath.Join(n.cfg.DataDir, "pki", "clock")))
	}
	if s.Problems == nil {
		s.Problems = []string{}
	}
	if !n.stored.Load() {
		return s
	}
	raft := n.store.Status()
	s.Cluster, s.Role, s.Term, s.Leader, s.Revision = n.charter.ClusterID, raft.Role, raft.Term, raft.LeaderID, raft.Revision
	known := map[string]gossip.Member{}
	for _, m := range n.ring.Members() {
		known[m.ID] = m
	}
	named := names(n.store.View())
	for _, m := range raft.Members {
		role := "non-voter"
		if m.Voter {
			role = "voter"
		}
		k := known[m.ID]
		s.Members = append(s.Members, Member{ID: m.ID, Name: cmp.Or(named[m.ID], k.Name), Address: k.ClusterAddr(), Role: role, Health: string(k.State), Version: k.Version})
	}
	if state := n.secretState(); state.Change > 0 {
		s.JoinSecret = &state
	}
	for _, text := range []string{n.secretProgress(), n.secretFileProblem()} {
		if text != "" {
			s.Problems = append(s.Problems, text)
		}
	}
	s.Problems = append(s.Problems, diagnose(s, raft)...)
	return s
}

// diagnose says in words what the rest of a status means, as far as it is trouble.
func diagnose(s Status, raft raftstore.Status) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	voters, answering := 0, 0
	member := false
	var away []string
	for _, m := range s.Members {
		up := m.Health == string(gossip.StateAlive)
		member = member || m.ID == s.ID
		if m.Role == "voter" {
			voters++
			if up {
				answering++
			}
		}
		if !up {
			away = append(away, cmp.Or(m.Name, m.ID))
		}
	}
	if raft.Err != nil {
		say("the store of this node does not work: %v", raft.Err)
	}
	if raft.DiskFailing {
		say("this node cannot write to its disk (is it full?): it acknowledges nothing until it can")
	}
	switch quorum := voters/2 + 1; {
	case !member && voters > 0:
		say("this node is not among the members of the cluster: it is being let in, or was removed")
	case answering < quorum:
		say("%d of %d voters answer, %d are needed: nothing can be written until more come back; this node serves what it knows", answering, voters, quorum)
	case s.Leader == "":
		say("no leader is known: an election is going on, or the voters do not reach each other over TCP")
	}
	if len(away) > 0 {
		say("does not answer: %s; if it is gone for good, remove it with: kontiki members remove NAME", strings.Join(away, ", "))
	}
	return out
}
