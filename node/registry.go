package node

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"kontiki/raftstore"
)

// The registry is what the cluster itself records of its nodes: who has a name, and
// whom an operator removed. Functions here are pure over a view of the store.

const (
	namesPrefix   = "/kontiki/names/"   // + name: a nameRecord
	removedPrefix = "/kontiki/removed/" // + node id: a removal
)

type nameRecord struct {
	ID string `json:"id"`
}

// removal is what is known of a node that an operator removed.
type removal struct {
	ID   string    `json:"id"`
	Name string    `json:"name,omitempty"`
	Time time.Time `json:"time"`
}

// prefixEnd is the first key after all that begin with prefix.
func prefixEnd(prefix string) string {
	return prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]+1)
}

// removedIDs lists the nodes that operators removed.
func removedIDs(view raftstore.View) []string {
	var ids []string
	view.Range(removedPrefix, prefixEnd(removedPrefix), 0, func(kv raftstore.KV) bool {
		ids = append(ids, strings.TrimPrefix(kv.Key, removedPrefix))
		return true
	})
	return ids
}

// removalOf is the record of a removed node.
func removalOf(view raftstore.View, id string) (removal, bool) {
	kv, found := view.Get(removedPrefix + id)
	if !found {
		return removal{}, false
	}
	r := removal{ID: id}
	if err := json.Unmarshal(kv.Value, &r); err != nil {
		return removal{ID: id}, true // what counts is that it is there
	}
	return r, true
}

// names are the names of nodes by id.
func names(view raftstore.View) map[string]string {
	out := map[string]string{}
	for _, kv := range nameKVs(view) {
		out[holderOf(kv)] = strings.TrimPrefix(kv.Key, namesPrefix)
	}
	return out
}

func nameKVs(view raftstore.View) []raftstore.KV {
	var all []raftstore.KV
	view.Range(namesPrefix, prefixEnd(namesPrefix), 0, func(kv raftstore.KV) bool {
		all = append(all, kv)
		return true
	})
	return all
}

// holderOf is the id that a name belongs to; empty for a record that is not readable.
func holderOf(kv raftstore.KV) string {
	var rec nameRecord
	if json.Unmarshal(kv.Value, &rec) != nil {
		return ""
	}
	return rec.ID
}

// planClaim is the transaction by which a node takes a name and lets go of others
// that it had. holder is another node that has the name; then there is no plan.
// A plan without Ops means that the name is the node's already.
func planClaim(view raftstore.View, id, name string) (txn raftstore.Txn, holder string) {
	key := namesPrefix + name
	kv, taken := view.Get(key)
	switch {
	case !taken:
		txn.Compares = append(txn.Compares, raftstore.Compare{Key: key})
		txn.Ops = append(txn.Ops, raftstore.Op{Kind: raftstore.OpPut, Key: key, Value: encodeRecord(nameRecord{id})})
	case holderOf(kv) != id && holderOf(kv) != "":
		return raftstore.Txn{}, holderOf(kv)
	}
	for _, other := range nameKVs(view) {
		if other.Key != key && holderOf(other) == id {
			txn.Compares = append(txn.Compares, raftstore.Compare{Key: other.Key, ModRevision: other.ModRevision})
			txn.Ops = append(txn.Ops, raftstore.Op{Kind: raftstore.OpDelete, Key: other.Key})
		}
	}
	return txn, ""
}

// planRemoval records a removal, frees the node's name, and forgets what was said of its vote.
func planRemoval(view raftstore.View, r removal) raftstore.Txn {
	var txn raftstore.Txn
	if _, found := view.Get(removedPrefix + r.ID); !found {
		txn.Compares = append(txn.Compares, raftstore.Compare{Key: removedPrefix + r.ID})
		txn.Ops = append(txn.Ops, raftstore.Op{Kind: raftstore.OpPut, Key: removedPrefix + r.ID, Value: encodeRecord(r)})
	}
	for _, kv := range nameKVs(view) {
		if holderOf(kv) == r.ID {
			txn.Compares = append(txn.Compares, raftstore.Compare{Key: kv.Key, ModRevision: kv.ModRevision})
			txn.Ops = append(txn.Ops, raftstore.Op{Kind: raftstore.OpDelete, Key: kv.Key})
		}
	}
	if kv, found := view.Get(votesPrefix + r.ID); found {
		txn.Compares = append(txn.Compares, raftstore.Compare{Key: kv.Key, ModRevision: kv.ModRevision})
		txn.Ops = append(txn.Ops, raftstore.Op{Kind: raftstore.OpDelete, Key: kv.Key})
	}
	return txn
}

func encodeRecord(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic("node: a record of plain fields does not encode: " + err.Error())
	}
	return data
}

// checkVotes refuses a change of voters after which too few of them would answer to
// decide anything. voters are those after the change.
func checkVotes(change string, voters []string, alive func(id string) bool) error {
	if len(voters) == 0 {
		return fmt.Errorf("%s would leave no voter: add or promote another node first", change)
	}
	quorum := len(voters)/2 + 1
	answering := 0
	for _, id := range voters {
		if alive(id) {
			answering++
		}
	}
	if answering < quorum {
		return fmt.Errorf("%s would leave %d voters of which %d answer, and %d are needed: nothing could be written any more; bring nodes back, or remove those that do not answer first",
			change, len(voters), answering, quorum)
	}
	return nil
}

// votersOf lists the ids of the voters, without one of them.
func votersOf(members []raftstore.Member, without string) []string {
	var ids []string
	for _, m := range members {
		if m.Voter && m.ID != without {
			ids = append(ids, m.ID)
		}
	}
	slices.Sort(ids)
	return ids
}
