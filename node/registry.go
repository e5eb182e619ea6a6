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
	// Epoch is the one of the cluster in which the node was a member last.
	Epoch raftstore.Epoch `json:"epoch,omitempty"`
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
func holderOf(kv raftstore.KV) string { return recordOf(kv).ID }

func recordOf(kv raftstore.KV) nameRecord {
	var rec nameRecord
	if json.Unmarshal(kv.Value, &rec) != nil {
		return nameRecord{}
	}
	return rec
}

// planStamp notes in the names' records of some nodes that they are members in an epoch.
func planStamp(view raftstore.View, ids []string, epoch raftstore.Epoch) (txn raftstore.Txn) {
	for _, kv := range nameKVs(view) {
		rec := recordOf(kv)
		if rec.Epoch == epoch || !slices.Contains(ids, rec.ID) {
			continue
		}
		rec.Epoch = epoch
		txn.Compares = append(txn.Compares, raftstore.Compare{Key: kv.Key, ModRevision: kv.ModRevision})
		txn.Ops = append(txn.Ops, raftstore.Op{Kind: raftstore.OpPut, Key: kv.Key, Value: encodeRecord(rec)})
	}
	return txn
}

// leftBehind are the nodes that have a name and were not let in since the cluster was
// recovered: members of an earlier epoch, which nothing but an operator brings back.
func leftBehind(view raftstore.View, members []raftstore.Member, epoch raftstore.Epoch) map[string]bool {
	out := map[string]bool{}
	for _, kv := range nameKVs(view) {
		rec := recordOf(kv)
		member := slices.ContainsFunc(members, func(m raftstore.Member) bool { return m.ID == rec.ID })
		if rec.ID != "" && rec.Epoch != epoch && !member {
			out[rec.ID] = true
		}
	}
	return out
}

// planClaim is the transaction by which a node takes a name and lets go of others
// that it had. holder is another node that has the name; then there is no plan.
// A plan without Ops means that the name is the node's already.
func planClaim(view raftstore.View, id, name string, epoch raftstore.Epoch) (txn raftstore.Txn, holder string) {
	key := namesPrefix + name
	kv, taken := view.Get(key)
	switch {
	case !taken:
		txn.Compares = append(txn.Compares, raftstore.Compare{Key: key})
		txn.Ops = append(txn.Ops, raftstore.Op{Kind: raftstore.OpPut, Key: key, Value: encodeRecord(nameRecord{id, epoch})})
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

// memberIDs lists the ids of members.
func memberIDs(members []raftstore.Member) []string {
	var ids []string
	for _, m := range members {
		ids = append(ids, m.ID)
	}
	return ids
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
