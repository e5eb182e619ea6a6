package node

import (
	"fmt"
	"testing"

	"kontiki/gossip"
	"kontiki/pki"
	"kontiki/raftstore"
)

func TestWhoIsWaitedForInAChangeOfTheSecret(t *testing.T) {
	ring := []gossip.Member{
		{ID: "a", Name: "self", ClusterID: "c", State: gossip.StateAlive, KeyStep: 2, Self: true},
		{ID: "b", Name: "slow", ClusterID: "c", State: gossip.StateAlive, KeyStep: 1},
		{ID: "d", Name: "ahead", ClusterID: "c", State: gossip.StateAlive, KeyStep: 3},
		{ID: "e", Name: "dead", ClusterID: "c", State: gossip.StateDead},
		{ID: "f", Name: "left", ClusterID: "c", State: gossip.StateLeft},
		{ID: "g", Name: "unmet", ClusterID: "c", State: gossip.StateUnknown},
		{ID: "h", Name: "blank", State: gossip.StateAlive},
		{ID: "i", Name: "made up", ClusterID: "c", State: gossip.StateAlive, KeyStep: 1},
	}
	var members []raftstore.Member
	for _, id := range []string{"a", "b", "d", "e", "f", "g", "h"} {
		members = append(members, raftstore.Member{ID: id})
	}
	if got := fmt.Sprint(behind(pki.Rotation{Step: 2}, ring, members, "c")); got != "[slow unmet]" {
		t.Errorf("waited for %s, want [slow unmet]", got)
	}
	if got := behind(pki.Rotation{}, ring, members, "c"); got != nil {
		t.Errorf("waited for %v although nothing is being changed", got)
	}
}
