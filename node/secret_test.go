package node

import (
	"fmt"
	"testing"

	"kontiki/gossip"
	"kontiki/pki"
)

func TestWhoIsWaitedForInAChangeOfTheSecret(t *testing.T) {
	members := []gossip.Member{
		{ID: "a", Name: "self", ClusterID: "c", State: gossip.StateAlive, KeyStep: 2, Self: true},
		{ID: "b", Name: "slow", ClusterID: "c", State: gossip.StateAlive, KeyStep: 1},
		{ID: "d", Name: "ahead", ClusterID: "c", State: gossip.StateAlive, KeyStep: 3},
		{ID: "e", Name: "dead", ClusterID: "c", State: gossip.StateDead},
		{ID: "f", Name: "left", ClusterID: "c", State: gossip.StateLeft},
		{ID: "g", Name: "unmet", ClusterID: "c", State: gossip.StateUnknown},
		{ID: "h", Name: "blank", State: gossip.StateAlive},
	}
	if got := fmt.Sprint(behind(pki.Rotation{Step: 2}, members, "c")); got != "[slow unmet]" {
		t.Errorf("waited for %s, want [slow unmet]", got)
	}
	if got := behind(pki.Rotation{}, members, "c"); got != nil {
		t.Errorf("waited for %v although nothing is being changed", got)
	}
}
