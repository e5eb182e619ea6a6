package gossip

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// maxExpect bounds how many nodes one proposal may name.
const maxExpect = 99

const formationName = "formation.json"

// proposalID names one attempt of one coordinator to found a cluster. Numbers of a
// coordinator grow and are never used twice.
type proposalID struct {
	Coordinator string `codec:"c" json:"coordinator"`
	Number      uint64 `codec:"n" json:"number"`
}

func (p proposalID) String() string { return fmt.Sprintf("%s/%d", p.Coordinator, p.Number) }

// proposal is what the proposed nodes promise. It is immutable.
type proposal struct {
	ID        proposalID `codec:"i" json:"id"`
	ClusterID string     `codec:"k" json:"cluster"`
	Expect    int        `codec:"e" json:"expect"`
	Settings  []byte     `codec:"s" json:"settings"`
	Members   []string   `codec:"m" json:"members"` // sorted; the coordinator is one of them
}

func (p *proposal) names(id string) bool { return slices.Contains(p.Members, id) }

func (p *proposal) validate() error {
	switch {
	case !validID(p.ID.Coordinator) || p.ID.Number == 0 || !validID(p.ClusterID):
		return errors.New("gossip: proposal with malformed ids")
	case p.Expect < 1 || p.Expect > maxExpect || len(p.Members) < p.Expect || len(p.Members) > maxExpect:
		return fmt.Errorf("gossip: proposal of %d members where %d are expected", len(p.Members), p.Expect)
	case !slices.IsSorted(p.Members) || len(slices.Compact(slices.Clone(p.Members))) != len(p.Members):
		return errors.New("gossip: proposal whose members are not sorted or not distinct")
	case !p.names(p.ID.Coordinator):
		return errors.New("gossip: proposal that does not name its coordinator")
	}
	for _, m := range p.Members {
		if !validID(m) {
			return fmt.Errorf("gossip: proposal with the malformed member %q", m)
		}
	}
	return nil
}

// formState is what a node must never forget about formation. It lies in
// Dir/formation.json, and is there before any message that follows from it is sent.
type formState struct {
	Format int    `json:"format"`
	NodeID string `json:"node"`
	// Number is the last number this node used as a coordinator. A proposal of its
	// own up to it that is neither Promised nor founded is aborted.
	Number uint64 `json:"number"`
	// Promised is the one proposal that this node is bound to. While Founding or
	// Outcome carries the same id it is settled.
	Promised *proposal `json:"promised,omitempty"`
	// Request is what this node gave with its promise; it stays the same for ever.
	Request []byte `json:"request,omitempty"`
	// Refused holds, per coordinator, up to which number this node has not
	// promised and never will.
	Refused map[string]uint64 `json:"refused,omitempty"`
	// Founding is the outcome of this node's own proposal, with the grants that
	// were not acknowledged yet.
	Founding *founding `json:"founding,omitempty"`
	// Outcome is set once this node has accepted its grant.
	Outcome *entered `json:"outcome,omitempty"`
}

type founding struct {
	Proposal proposal          `json:"proposal"`
	Grants   map[string][]byte `json:"grants"`
}

type entered struct {
	Proposal proposal `json:"proposal"`
	Grant    []byte   `json:"grant"`
}

func (s formState) clone() formState {
	s.Refused = maps.Clone(s.Refused)
	if s.Founding != nil {
		f := *s.Founding
		f.Grants = maps.Clone(f.Grants)
		s.Founding = &f
	}
	return s
}

func loadFormState(dir, nodeID string) (formState, error) {
	s := formState{Format: fileVersion, NodeID: nodeID}
	path := filepath.Join(dir, formationName)
	b, err := readFile(path)
	if err != nil {
		return s, fmt.Errorf("gossip: %w", err)
	}
	if b == nil {
		return s, nil
	}
	hint := "it holds this node's promises, so it is not replaced silently: restore it, or, if no other node " +
		"waits for this one to form a cluster, give the promises up with \"kontiki reset --formation\""
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("gossip: %s cannot be read (%w); %s", path, err, hint)
	}
	if s.Format != fileVersion {
		return s, fmt.Errorf("gossip: %s has format %d, this version knows %d; start the version that wrote it", path, s.Format, fileVersion)
	}
	if s.NodeID != nodeID {
		return s, fmt.Errorf("gossip: %s belongs to node %s, this is node %s; %s", path, s.NodeID, nodeID, hint)
	}
	return s, nil
}

func (s formState) save(dir string) error {
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return fmt.Errorf("gossip: encode the formation's state: %w", err)
	}
	return writeFile(filepath.Join(dir, formationName), append(b, '\n'))
}

// ResetFormation makes a stopped node forget its promises. Only an operator may
// decide that, who knows that no coordinator will found a cluster on one of them:
// such a cluster would count on this node.
func ResetFormation(dir string) error {
	err := os.Remove(filepath.Join(dir, formationName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("gossip: reset the formation: %w", err)
	}
	return syncDir(dir)
}

// HasPromised tells whether a stopped node may have promised to found a cluster.
func HasPromised(dir string) (bool, error) {
	b, err := readFile(filepath.Join(dir, formationName))
	return b != nil, err
}

// newClusterID returns 26 lower-case letters and digits.
func newClusterID() string {
	var b [16]byte
	rand.Read(b[:])
	return base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding).EncodeToString(b[:])
}
