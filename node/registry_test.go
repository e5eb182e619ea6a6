package node

import (
	"context"
	"strings"
	"testing"
	"time"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

func apply(t *testing.T, store *raftstore.Store, txn raftstore.Txn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	res, err := store.Apply(ctx, txn)
	if err != nil || !res.Succeeded {
		t.Fatalf("apply %+v: %+v, %v", txn, res, err)
	}
}

func TestNamesAreTakenOnce(t *testing.T) {
	store := raftstoretest.New(t)
	txn, holder := planClaim(store.View(), "a", "n1", "")
	if holder != "" || len(txn.Ops) != 1 {
		t.Fatalf("a free name: %+v, %q", txn, holder)
	}
	apply(t, store, txn)
	if txn, holder := planClaim(store.View(), "a", "n1", ""); holder != "" || len(txn.Ops) != 0 {
		t.Errorf("the own name again: %+v, %q", txn, holder)
	}
	if _, holder := planClaim(store.View(), "b", "n1", ""); holder != "a" {
		t.Errorf("a name of a is held by %q", holder)
	}
	txn, _ = planClaim(store.View(), "a", "other", "")
	apply(t, store, txn)
	if _, holder := planClaim(store.View(), "b", "n1", ""); holder != "" {
		t.Errorf("a name that its node let go of is held by %q", holder)
	}
	if got := names(store.View()); len(got) != 1 || got["a"] != "other" {
		t.Errorf("names are %v", got)
	}
}

func TestRemovalFreesTheNameAndIsKept(t *testing.T) {
	store := raftstoretest.New(t)
	txn, _ := planClaim(store.View(), "a", "n1", "")
	apply(t, store, txn)
	gone := removal{ID: "a", Name: "n1", Time: time.Unix(1e9, 0).UTC()}
	apply(t, store, planRemoval(store.View(), gone))
	if ids := removedIDs(store.View()); len(ids) != 1 || ids[0] != "a" {
		t.Errorf("removed are %v", ids)
	}
	if got, found := removalOf(store.View(), "a"); !found || got != gone {
		t.Errorf("the removal came back as %+v, %v", got, found)
	}
	if txn := planRemoval(store.View(), gone); len(txn.Ops) != 0 {
		t.Errorf("removing again does %+v", txn)
	}
	if _, holder := planClaim(store.View(), "b", "n1", ""); holder != "" {
		t.Errorf("the name of a removed node is held by %q", holder)
	}
}

func TestVotesThatWouldBeTooFew(t *testing.T) {
	alive := func(id string) bool { return strings.ToLower(id) == id } // the dead shout
	for _, test := range []struct {
		voters []string
		ok     bool
	}{
		{nil, false}, {[]string{"a"}, true}, {[]string{"A"}, false}, {[]string{"a", "B"}, false},
		{[]string{"a", "b"}, true}, {[]string{"a", "b", "C"}, true}, {[]string{"a", "B", "C"}, false},
	} {
		if err := checkVotes("it", test.voters, alive); (err == nil) != test.ok {
			t.Errorf("%v: %v", test.voters, err)
		}
	}
}

func TestFoundersVoteInOddNumber(t *testing.T) {
	for _, test := range []struct{ founders, voters, want int }{{1, 5, 1}, {2, 5, 1}, {3, 5, 3}, {4, 5, 3}, {7, 5, 5}, {7, 3, 3}, {9, 1, 1}} {
		if got := votesOf(test.founders, test.voters); got != test.want {
			t.Errorf("%d founders with at most %d votes: %d vote, want %d", test.founders, test.voters, got, test.want)
		}
	}
}

// A node's socket answers its operator before it serves the API.
func TestNodeObjectIsNotDeletedBeforeThereIsAnAPI(t *testing.T) {
	n := &node{served: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.deleteNodeObject(ctx, "n4", "d"); err == nil || !strings.Contains(err.Error(), "does not serve the API yet") {
		t.Errorf("%v", err)
	}
}
