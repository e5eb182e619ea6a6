package node

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kontiki/apiserver/census"
	"kontiki/gossip"
	"kontiki/raftstore"
	"kontiki/raftstore/voters"
)

// Status is what a node says of itself and of its cluster.
type Status struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Version  string   `json:"version,omitempty"`
	Phase    string   `json:"phase"`
	Cluster  string   `json:"cluster,omitempty"`
	Epoch    string   `json:"epoch,omitempty"` // of the cluster; empty until it was recovered or restored
	Role     string   `json:"role,omitempty"`  // Raft's: Leader, Follower, Candidate
	Term     uint64   `json:"term,omitempty"`
	Leader   string   `json:"leader,omitempty"` // node id
	Revision uint64   `json:"revision"`
	Members  []Member `json:"members"`
	// Pods are how many pods the cluster has, as this node's replica shows.
	Pods *PodCount `json:"pods,omitempty"`
	// JoinSecret tells how far the last change of the join secret has come; nil if it was
	// never changed.
	JoinSecret *SecretState `json:"joinSecret,omitempty"`
	// Losses says what the number of voters means: what may be lost before what stops.
	Losses string `json:"losses,omitempty"`
	// Commands tells which version of the log's commands is in use, and what a later one
	// waits for while the nodes are upgraded one after the other.
	Commands *Commands `json:"commands,omitempty"`
	// DataKeys tells how far the last change of the key has come that encrypts Secrets.
	DataKeys *DataKeys `json:"dataKeys,omitempty"`
	// Problems are what is wrong, in words, with what to do about it.
	Problems []string `json:"problems"`
}

// Member is one member of the Raft group, or a blank node that the ring sees.
type Member struct {
	ID      string         `json:"id"`
	Name    string         `json:"name,omitempty"`
	Address netip.AddrPort `json:"address"`
	// Role is voter or non-voter; away, when it was taken out until it is back; lost, when it
	// was left behind by a recovery.
	Role string `json:"role"`
	// Why says why it has that role, in the leader's words.
	Why string `json:"why,omitempty"`
	// Wish is what an operator said about its vote: "vote", "no vote", or nothing.
	Wish    string `json:"wish,omitempty"`
	Health  string `json:"health"` // alive, dead, left, unknown: the ring's word
	Version string `json:"version,omitempty"`
	// AppliedRevision is what its replica shows, as it said last.
	AppliedRevision uint64 `json:"appliedRevision,omitempty"`
	// LastContact is when it last heard the leader, as it said last; of the leader itself,
	// when that was last heard by this node. Of one that does not answer and was never
	// asked, since when that is so.
	LastContact *time.Time `json:"lastContact,omitempty"`
	// Commands is the version of the log's commands that its program knows, as it said last.
	Commands int `json:"commands,omitempty"`
	MemberWork
}

// status tells what boot has finished so far.
func (n *node) status(ctx context.Context) Status {
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
	raft, view := n.store.Status(), n.store.View()
	s.Epoch = string(n.charter.Epoch)
	s.Cluster, s.Role, s.Term, s.Leader, s.Revision = n.charter.ClusterID, raft.Role, raft.Term, raft.LeaderID, raft.Revision
	known := map[string]gossip.Member{}
	for _, m := range n.ring.Members() {
		known[m.ID] = m
	}
	answers := n.askPeers(ctx, raft, known)
	s.Members = memberList(view, raft, known, answers)
	s.Losses = losses(s.Members)
	ways, err := n.ways()
	if err != nil {
		s.Problems = append(s.Problems, fmt.Sprintf("it cannot be seen whether the pod network is as it should be: %v; see kontiki net status", err))
	}
	pods := census.CountPods(view)
	s.addWork(pods, census.Nodes(view), ways)
	commands := commandsOf(raft, answers[raft.LeaderID].status, names(view))
	s.Commands = &commands
	for _, other := range answers {
		s.Commands.Needs = max(s.Commands.Needs, other.status.Gate.Version)
	}
	s.DataKeys = dataKeysIn(view)
	if state := n.secretState(); state.Change > 0 {
		s.JoinSecret = &state
	}
	for _, text := range []string{n.secretProgress(), n.secretFileProblem()} {
		if text != "" {
			s.Problems = append(s.Problems, text)
		}
	}
	s.Problems = append(s.Problems, diagnose(s, raft)...)
	s.Problems = append(s.Problems, diagnoseWork(s, pods, n.now())...)
	return s
}

// memberList are the members, and those who were and come back by themselves.
func memberList(view raftstore.View, raft raftstore.Status, known map[string]gossip.Member, answers map[string]peer) []Member {
	named, roles := names(view), answers[raft.LeaderID].status.Roles
	list := []Member{}
	add := func(id, role string) {
		k, said := known[id], answers[id]
		list = append(list, Member{
			ID: id, Name: cmp.Or(named[id], k.Name), Address: k.ClusterAddr(), Role: role, Why: roles[id], Wish: wishWords[wishOf(view, id)],
			Health: string(k.State), Version: k.Version,
			AppliedRevision: said.status.Revision, LastContact: lastContact(said, k), Commands: said.status.Knows,
		})
	}
	members := map[string]bool{}
	for _, m := range raft.Members {
		members[m.ID] = true
		add(m.ID, roleOf(m))
	}
	lost := leftBehind(view, raft.Members, raft.Epoch)
	for _, id := range slices.Sorted(maps.Keys(named)) {
		switch {
		case id == "" || members[id]:
		case lost[id]:
			add(id, roleLost)
			list[len(list)-1].Why = whyLost
		default:
			add(id, "away")
		}
	}
	return list
}

// A member that a recovery left behind: its replica may hold what the cluster never will, so
// nothing lets it in again but an operator's word.
const (
	roleLost = "lost"
	whyLost  = "left behind when the cluster was recovered: if its machine lives, stop kontiki there, run kontiki reset --membership, and start it; if not, remove it with kontiki members remove"
)

var wishWords = map[voters.Wish]string{voters.Vote: "vote", voters.NoVote: "no vote"}

func roleOf(m raftstore.Member) string {
	if m.Voter {
		return "voter"
	}
	return "non-voter"
}

// askPeers tells what is known of every member's replica. Members that the ring does not
// hold for alive are not asked.
func (n *node) askPeers(ctx context.Context, raft raftstore.Status, known map[string]gossip.Member) map[string]peer {
	var ids, away []string
	for _, m := range raft.Members {
		switch {
		case m.ID == n.id.ID:
		case known[m.ID].State == gossip.StateAlive:
			ids = append(ids, m.ID)
		default:
			away = append(away, m.ID)
		}
	}
	answers := n.peers.ask(ctx, n.store, ids)
	for _, id := range away {
		answers[id] = n.peers.last(id)
	}
	own := peer{status: n.store.PeerStatus(), at: time.Now()}
	answers[n.id.ID] = own
	return answers
}

// lastContact is when a member last heard the leader; nil if that is not known.
func lastContact(said peer, m gossip.Member) *time.Time {
	var at time.Time
	switch {
	case said.at.IsZero() && (m.State == gossip.StateDead || m.State == gossip.StateLeft):
		at = m.Since
	case said.at.IsZero() || said.status.Silence < 0:
		return nil
	default:
		at = said.at.Add(-said.status.Silence)
	}
	at = at.UTC().Round(time.Millisecond)
	return &at
}

// losses says what the number of voters means.
func losses(members []Member) string {
	var alive int
	var voters []string
	for _, m := range members {
		if m.Role == "voter" {
			voters = append(voters, cmp.Or(m.Name, m.ID))
			if m.Health == string(gossip.StateAlive) {
				alive++
			}
		}
	}
	quorum := len(voters)/2 + 1
	switch spare := alive - quorum; {
	case len(voters) == 0:
		return ""
	case alive < quorum:
		return fmt.Sprintf("%d of %d voters answer, %d are needed: nothing can be written until more come back", alive, len(voters), quorum)
	case len(voters) == 1 && len(members) == 1:
		return "1 voter, the only node: its disk is everything; three nodes survive the loss of one"
	case len(voters) == 1 && len(members) == 2:
		return fmt.Sprintf("1 voter of 2 nodes: the disk of %s is everything, and while it is away nothing can be written. A second vote would make that worse (the loss of either would stop writes); with a third node all three vote", voters[0])
	case len(voters) == 1:
		return fmt.Sprintf("1 voter of %d nodes: the disk of %s is everything; kontiki members says why no others vote", len(members), voters[0])
	case len(voters) == 2:
		return "2 voters: the loss of either stops writes; with a third node one may be lost"
	case spare == 0:
		return fmt.Sprintf("%d of %d voters answer: the next loss stops writes", alive, len(voters))
	default:
		return fmt.Sprintf("%d of %d voters answer: %d more may be lost", alive, len(voters), spare)
	}
}

// diagnose says in words what the rest of a status means, as far as it is trouble.
func diagnose(s Status, raft raftstore.Status) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	voters, answering := 0, 0
	member := false
	var away, lost []string
	for _, m := range s.Members {
		up := m.Health == string(gossip.StateAlive)
		member = member || m.ID == s.ID
		if m.Role == "voter" {
			voters++
			if up {
				answering++
			}
		}
		switch {
		case m.Role == roleLost:
			lost = append(lost, cmp.Or(m.Name, m.ID))
		case !up:
			away = append(away, cmp.Or(m.Name, m.ID))
		}
	}
	if raft.Unclear != "" {
		say("replicas of the cluster differ, and there is no majority to say which is right: %s. Find out which of them is right (kontiki snapshot save --local on each), then remove the others and let them join again emptied", raft.Unclear)
	}
	if raft.Err != nil {
		say("the store of this node does not work: %v", raft.Err)
	}
	if c := s.Commands; c != nil && c.Needs > c.Knows {
		say("this node's program is too old for its cluster, whose members have agreed on version %d of the log's commands; it knows %d: start the node with the program that the others run", c.Needs, c.Knows)
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
	if len(lost) > 0 {
		say("the cluster was recovered without %s, and goes on without: to let a machine of these in anew, stop kontiki there, run kontiki reset --membership, and start it; remove those that are gone with: kontiki members remove NAME", strings.Join(lost, ", "))
	}
	return out
}
