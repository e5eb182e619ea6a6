package raftstore_test

import (
	"fmt"
	"testing"
	"time"

	"kontiki/internal/meter/metertest"
	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

func TestMetrics(t *testing.T) {
	c := raftstoretest.NewCluster(t, 3)
	const writes = 5
	for i := range writes {
		if _, err := c.Stores[i%3].Apply(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Kind: raftstore.OpPut, Key: fmt.Sprintf("/k%d", i), Value: []byte("v")}}}); err != nil {
			t.Fatal(err)
		}
	}
	watch, err := c.Stores[0].Watch("/k", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	// A follower's answer, and what it shows, come a moment later.
	deadline, wrong := time.Now().Add(raftstoretest.Patience), ""
	for wrong = look(t, c, writes); wrong != "" && time.Now().Before(deadline); wrong = look(t, c, writes) {
		if _, err := c.Stores[0].Linearize(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if wrong != "" {
		t.Error(wrong)
	}
	leader := c.Stores[0].Leadership().LeaderID
	for _, s := range c.Stores {
		if s.Status().NodeID != leader {
			continue
		}
		before := metertest.Read(t, &raftstore.Metrics, s)
		if err := s.Snapshot(); err != nil {
			t.Fatal(err)
		}
		after := metertest.Read(t, &raftstore.Metrics, s)
		const name = "kontiki_store_snapshot_duration_seconds"
		if after[name] != before[name]+1 || after["kontiki_store_snapshot_bytes"] <= before["kontiki_store_snapshot_bytes"] {
			t.Errorf("a snapshot: %v → %v, %v → %v bytes", before[name], after[name], before["kontiki_store_snapshot_bytes"], after["kontiki_store_snapshot_bytes"])
		}
	}
}

// look says what is not told as it should be.
func look(t *testing.T, c *raftstoretest.Cluster, writes int) (wrong string) {
	leaders, lags := 0.0, 0
	for i, s := range c.Stores {
		got := metertest.Read(t, &raftstore.Metrics, s)
		leads := got["kontiki_raft_leader"] == 1
		leaders += got["kontiki_raft_leader"]
		want := map[string]float64{
			"kontiki_raft_has_leader": 1, `kontiki_raft_members{suffrage="voter"}`: 3, `kontiki_raft_members{suffrage="nonvoter"}`: 0,
			"kontiki_store_keys": float64(writes), "kontiki_store_disk_failing": 0, "kontiki_store_replica_damaged": 0,
			"kontiki_store_replica_refills_total": 0, "kontiki_store_revision": float64(s.View().Revision()), "kontiki_raft_leader_changes_seen_total": 1,
		}
		most := []string{"kontiki_raft_term", "kontiki_raft_last_index", "kontiki_raft_commit_index", "kontiki_raft_applied_index",
			"kontiki_store_log_bytes", "kontiki_store_history_bytes", "kontiki_store_disk_write_duration_seconds"}
		if leads {
			most = append(most, "kontiki_store_batch_commands", "kontiki_store_commit_duration_seconds", "kontiki_store_read_round_duration_seconds",
				"kontiki_raft_candidacies_total", "kontiki_raft_elections_won_total")
			for j := range c.Stores {
				if lag, told := got[fmt.Sprintf("kontiki_raft_peer_lag_entries{member=%q}", raftstoretest.NodeID(j))]; told && lag == 0 {
					lags++
				}
			}
		} else {
			want["kontiki_raft_elections_won_total"], want["kontiki_store_batch_commands"] = 0, 0
			if contact, told := got["kontiki_raft_leader_last_contact_seconds"]; !told || contact < 0 {
				wrong = fmt.Sprintf("node %d last heard the leader %v, %v", i, contact, told)
			}
		}
		if i == 0 {
			want["kontiki_store_watches"] = 1
		}
		for name, value := range want {
			if got[name] != value {
				wrong = fmt.Sprintf("node %d: %s is %v, want %v", i, name, got[name], value)
			}
		}
		for _, name := range most {
			if got[name] <= 0 {
				wrong = fmt.Sprintf("node %d: %s is %v", i, name, got[name])
			}
		}
	}
	if leaders != 1 || lags != 2 {
		wrong = fmt.Sprintf("%v lead, and %d members are told of that have all", leaders, lags)
	}
	return wrong
}
