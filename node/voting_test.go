package node

import (
	"strings"
	"testing"
	"time"

	"kontiki/gossip"
	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
	"kontiki/raftstore/voters"
)

func putRecord(t *testing.T, store *raftstore.Store, key string, v any) {
	t.Helper()
	apply(t, store, raftstore.Txn{Ops: []raftstore.Op{{Kind: raftstore.OpPut, Key: key, Value: encodeRecord(v)}}})
}

// Who may vote, or come back, is a member or has a name: the ring only says how it is.
func TestPeersBelongToTheCluster(t *testing.T) {
	store := raftstoretest.New(t)
	since := time.Unix(1e9, 0)
	for name, id := range map[string]string{"n1": "member", "n2": "back", "n3": "asleep", "n4": "removed", "n5": "untold"} {
		putRecord(t, store, namesPrefix+name, nameRecord{ID: id})
	}
	putRecord(t, store, removedPrefix+"removed", removal{ID: "removed"})
	putRecord(t, store, votesPrefix+"member", vote{Votes: true})
	putRecord(t, store, votesPrefix+"back", vote{Votes: false})
	ring := func(id, cluster string, state gossip.State) gossip.Member {
		return gossip.Member{ID: id, ClusterID: cluster, State: state, Since: since, Zone: "a"}
	}
	got := peersOf(store.View(), []raftstore.Member{{ID: "member", Voter: true}, {ID: "nameless"}, {ID: "removed"}}, []gossip.Member{
		ring("member", "c", gossip.StateAlive), ring("nameless", "c", gossip.StateDead), ring("back", "c", gossip.StateLeft),
		ring("removed", "c", gossip.StateAlive), ring("stranger", "c", gossip.StateAlive), ring("asleep", "other", gossip.StateAlive),
		ring("untold", "", gossip.StateDead),
	}, "c")
	want := map[string]raftstore.Peer{
		"member":   {State: raftstore.PeerAlive, Since: since, Zone: "a", Wish: voters.Vote},
		"nameless": {State: raftstore.PeerDead, Since: since, Zone: "a"},
		"back":     {State: raftstore.PeerLeft, Since: since, Zone: "a", Wish: voters.NoVote},
		"asleep":   {},
		"untold":   {State: raftstore.PeerDead, Since: since, Zone: "a"},
	}
	for id, p := range want {
		if got[id] != p {
			t.Errorf("%s is %+v, want %+v", id, got[id], p)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%+v", got)
	}
}

func TestRemovalForgetsWhatWasSaidOfTheVote(t *testing.T) {
	store := raftstoretest.New(t)
	putRecord(t, store, votesPrefix+"a", vote{Votes: true})
	apply(t, store, planRemoval(store.View(), removal{ID: "a"}))
	if w := wishOf(store.View(), "a"); w != voters.Auto {
		t.Errorf("a removed node is to vote: %v", w)
	}
}

func TestAWishThatCannotBeReadIsNone(t *testing.T) {
	store := raftstoretest.New(t)
	apply(t, store, raftstore.Txn{Ops: []raftstore.Op{{Kind: raftstore.OpPut, Key: votesPrefix + "a", Value: []byte("{")}}})
	if w := wishOf(store.View(), "a"); w != voters.Auto {
		t.Errorf("%v", w)
	}
}

func TestVotingTimes(t *testing.T) {
	got, err := Voting{}.withDefaults()
	if want := (Voting{10 * time.Second, time.Minute, 24 * time.Hour}); err != nil || got != want {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := (Voting{Forget: -1}).withDefaults(); err != nil {
		t.Errorf("never: %v", err)
	}
	for _, bad := range []Voting{{Stable: -1}, {Dead: -1}, {Dead: time.Hour, Forget: time.Minute}} {
		if _, err := bad.withDefaults(); err == nil || !strings.Contains(err.Error(), "--dead-voter-after") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// Those who were taken out until they are back are still told of.
func TestMemberList(t *testing.T) {
	store := raftstoretest.New(t)
	putRecord(t, store, namesPrefix+"n1", nameRecord{ID: "a"})
	putRecord(t, store, namesPrefix+"n2", nameRecord{ID: "b"})
	leader := peer{status: raftstore.PeerStatus{Knows: 2, Roles: map[string]string{"a": "healthy", "b": "was gone"}}}
	raft := raftstore.Status{LeaderID: "a", Members: []raftstore.Member{{ID: "a", Voter: true}}}
	known := map[string]gossip.Member{"b": {ID: "b", State: gossip.StateDead}}
	list := memberList(store.View(), raft, known, map[string]peer{"a": leader})
	if len(list) != 2 || list[0].Role != "voter" || list[0].Why != "healthy" || list[0].Commands != 2 ||
		list[1].Name != "n2" || list[1].Role != "away" || list[1].Why != "was gone" || list[1].Health != "dead" {
		t.Errorf("%+v", list)
	}
}

// Who was left behind by a recovery is not taken for one that comes back by itself: neither
// before nor after others of this epoch are away, and not once it was let in anew.
func TestMembersThatARecoveryLeftBehind(t *testing.T) {
	const epoch = raftstore.Epoch("2-k3v9q1aaaaaaa")
	store := raftstoretest.New(t)
	for name, id := range map[string]string{"n1": "a", "n2": "b", "n3": "c"} {
		putRecord(t, store, namesPrefix+name, nameRecord{ID: id})
	}
	raft := raftstore.Status{LeaderID: "a", Epoch: epoch, Members: []raftstore.Member{{ID: "a", Voter: true}}}
	leader := peer{status: raftstore.PeerStatus{Roles: map[string]string{"b": "is taken out until it is back"}}}
	roles := func() (out string) {
		for _, m := range memberList(store.View(), raft, nil, map[string]peer{"a": leader}) {
			out += m.Name + " " + m.Role + ", "
			if lost := m.Role == "lost"; lost != strings.Contains(m.Why, "kontiki reset --membership") {
				t.Errorf("%s, %s: %s", m.Name, m.Role, m.Why)
			}
		}
		return out
	}
	if got := roles(); got != "n1 voter, n2 lost, n3 lost, " {
		t.Errorf("after a recovery: %s", got)
	}
	apply(t, store, planStamp(store.View(), []string{"a", "b"}, epoch)) // b is let in anew, and a leads
	if txn := planStamp(store.View(), []string{"a", "b"}, epoch); len(txn.Ops) != 0 {
		t.Errorf("noted twice: %+v", txn)
	}
	raft.Members = append(raft.Members, raftstore.Member{ID: "b"})
	if got := roles(); got != "n1 voter, n2 non-voter, n3 lost, " {
		t.Errorf("with one let in anew: %s", got)
	}
	raft.Members = []raftstore.Member{{ID: "b", Voter: true}}
	if got := roles(); got != "n2 voter, n1 away, n3 lost, " {
		t.Errorf("with the survivor away: %s", got)
	}
	s := Status{ID: "b", Leader: "b", Members: []Member{
		{ID: "b", Name: "n2", Role: "voter", Health: "alive"}, {ID: "c", Name: "n3", Role: "lost", Health: "unknown"}}}
	problems := strings.Join(diagnose(s, raft), "\n")
	if strings.Contains(problems, "does not answer: n3") || !strings.Contains(problems, "recovered without n3") || !strings.Contains(problems, "kontiki members remove") {
		t.Errorf("problems: %s", problems)
	}
}

func TestVersionsInWords(t *testing.T) {
	own := raftstore.Status{Knows: 2, Gate: raftstore.Gate{Version: 1}}
	leader := raftstore.PeerStatus{Gate: raftstore.Gate{Waits: []raftstore.GateWait{{ID: "b", Knows: 1}, {ID: "c"}}}}
	got := commandsOf(own, leader, map[string]string{"b": "n2"}).String()
	want := "version 1 of the log's commands is in use; this node's program knows 2, and a later one waits for " +
		"n2 (its program knows version 1), c (does not answer; start it with the new program, or remove it)"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	own.Gate.Version = 2
	if got := commandsOf(own, raftstore.PeerStatus{}, nil).String(); got != "version 2 of the log's commands is in use" {
		t.Error(got)
	}
	s := Status{Commands: &Commands{Version: 1, Knows: 1, Needs: 2}}
	if out := strings.Join(diagnose(s, raftstore.Status{}), "\n"); !strings.Contains(out, "too old for its cluster") {
		t.Error(out)
	}
}
