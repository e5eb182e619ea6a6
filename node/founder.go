package node

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"kontiki/pki"
)

// founder fills formation with keys: the ring decides who founds a cluster, pki
// makes what the founders share. It is gossip.Founder.
type founder struct {
	dir string
	now func() time.Time
}

// Request is empty: a founder is trusted by its proof of the join secret, and
// signs its own certificate with the authority that it is given.
func (f founder) Request() ([]byte, error) { return nil, nil }

// Found makes the cluster's keys, once, and one admission for every founder.
func (f founder) Found(clusterID string, settings []byte, requests map[string][]byte) (map[string][]byte, error) {
	s, err := decodeSettings(settings)
	if err != nil {
		return nil, err
	}
	trust, err := pki.NewTrust(clusterID, f.now())
	if err != nil {
		return nil, fmt.Errorf("make the cluster's keys: %w", err)
	}
	founders := slices.Sorted(maps.Keys(requests))
	votes := votesOf(len(founders), s.Voters)
	c := charter{ClusterID: clusterID, Settings: s, Founders: founders[:votes], Nonvoters: founders[votes:], trust: trust}
	grant, err := c.admit()
	if err != nil {
		return nil, err
	}
	grants := map[string][]byte{}
	for _, id := range founders {
		grants[id] = grant
	}
	return grants, nil
}

// votesOf is how many of the founders vote: an odd number, since one more than that
// survives no more losses, and has more to lose.
func votesOf(founders, voters int) int {
	n := min(founders, voters)
	return n - (n+1)%2
}

// Accept makes a grant durable. It may be called again with the same grant.
func (f founder) Accept(_ string, _, grant []byte) error {
	_, err := enter(f.dir, grant)
	return err
}
