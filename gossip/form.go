package gossip

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Founder makes and takes the payloads of formation, which are opaque here.
type Founder interface {
	// Request is what this node asks of the cluster's founder, such as a
	// certificate request. It is asked for once per process, kept with the promise,
	// and must stay good for as long as the data directory lives.
	Request() ([]byte, error)
	// Found makes the cluster: for every requesting node, this one included, a
	// grant that is not nil. Only the coordinator calls it, once all have promised.
	// After a crash, or an error, it may be called again, and then either result
	// may be the one that counts; no grant leaves this node before all of them are
	// on its disk.
	Found(clusterID string, settings []byte, requests map[string][]byte) (grants map[string][]byte, err error)
	// Accept takes this node's grant. It must be durable when it returns, and may
	// be called again with the same arguments.
	Accept(clusterID string, settings, grant []byte) error
}

// FormConfig says what cluster this node would help to form.
type FormConfig struct {
	// Expect is how many blank nodes found a cluster, from 1 to 99.
	Expect int
	// Settings are the cluster's settings; blank nodes form together only if
	// theirs are equal to the byte.
	Settings []byte
	Founder  Founder
	// Streams carries formation's messages. It is closed when Run returns.
	Streams Streams
}

// OutcomeKind says how a node came to its cluster.
type OutcomeKind string

// The kinds of Outcome.
const (
	// Founded: this node is one of the founders, and Accept has returned.
	Founded OutcomeKind = "founded"
	// Met: there is a cluster; one of Through can let this node in.
	Met OutcomeKind = "met"
)

// Outcome is the end of formation for this node.
type Outcome struct {
	Kind      OutcomeKind
	ClusterID string
	// Members are the founders' ids if Kind is Founded, else the ids of those
	// members that were seen alive.
	Members  []string
	Settings []byte // of a founder
	Grant    []byte // of a founder
	// Through are living members of a cluster that was met. It is empty for a node
	// whose Meta.ClusterID was set before; Members of the Ring tells them later.
	Through []Member
}

// Form brings this node into a cluster: one that it founds with others, or one
// that it meets. It blocks until that is so or ctx ends, and needs Run to run.
//
// It has to be called once in each process, also by a node that belongs to a
// cluster: others may wait for what only this node's disk knows. Run goes on to
// answer them after Form has returned. A founder gets the same outcome again
// after a restart; a node whose Meta.ClusterID is set and that founded nothing
// gets Met at once.
func (r *Ring) Form(ctx context.Context, c FormConfig) (Outcome, error) {
	if c.Expect < 1 || c.Expect > maxExpect {
		return Outcome{}, fmt.Errorf("gossip: %d nodes are expected to form a cluster, want 1 to %d", c.Expect, maxExpect)
	}
	if c.Founder == nil || c.Streams == nil {
		return Outcome{}, errors.New("gossip: FormConfig.Founder and FormConfig.Streams are required")
	}
	st, err := loadFormState(r.cfg.Dir, r.cfg.NodeID)
	if err != nil {
		return Outcome{}, err
	}
	self := r.selfCluster()
	if st.Outcome != nil && self != "" && st.Outcome.Proposal.ClusterID != self {
		return Outcome{}, fmt.Errorf("gossip: this node belongs to cluster %s, but its ring directory says that it founded %s; "+
			"parts of two data directories were mixed", self, st.Outcome.Proposal.ClusterID)
	}
	var request []byte
	if st.Request == nil {
		if request, err = c.Founder.Request(); err != nil {
			return Outcome{}, fmt.Errorf("gossip: prepare for formation: %w", err)
		}
	}
	run := &formRun{r: r, c: c, f: newFormer(r.cfg.NodeID, c.Expect, c.Settings, request, st, self),
		inbox: make(chan formMsg), results: make(chan formInput), outcome: make(chan Outcome, 1), sending: map[string]int{}}
	run.f.quiet = r.lookAround()
	switch {
	case st.Outcome != nil:
		run.enter(st.Outcome.Proposal.ClusterID)
		run.decided(*st.Outcome.outcome())
	case self != "":
		run.decided(Outcome{Kind: Met, ClusterID: self})
	}
	select {
	case r.services <- run.run:
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	case <-r.ended:
		return Outcome{}, errors.New("gossip: the ring has stopped")
	}
	select {
	case out := <-run.outcome:
		return out, nil
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	case <-r.ended:
		return Outcome{}, errors.New("gossip: the ring has stopped")
	}
}

// lookAround is how long a node that would found a cluster alone waits for one that
// is there already to show.
func (r *Ring) lookAround() time.Duration {
	switch {
	case len(r.cfg.Join) > 0:
		return 3 * time.Second
	case r.cfg.Beacon != nil:
		return 500 * time.Millisecond
	}
	return 0
}

func (r *Ring) selfCluster() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dir.self.ClusterID
}

// formView is what the ring shows of blank nodes and of clusters.
func (r *Ring) formView() formView {
	v := formView{blank: map[string]formStance{}, alive: map[string]bool{}, clusters: map[string][]string{}}
	r.mu.Lock()
	defer r.mu.Unlock()
	latest := r.dir.latestEpochs()
	for id, e := range r.dir.members {
		if e.State != StateAlive || !e.met || e.leaving {
			continue
		}
		v.alive[id] = true
		switch {
		case e.ClusterID != "":
			if e.Epoch == latest[e.ClusterID] {
				v.clusters[e.ClusterID] = append(v.clusters[e.ClusterID], id)
			}
		case e.form != nil:
			v.blank[id] = *e.form
		}
	}
	return v
}

// through looks up the living members of a cluster.
func (r *Ring) through(clusterID string) []Member {
	var out []Member
	for _, m := range r.Members() {
		if !m.Self && m.State == StateAlive && m.ClusterID == clusterID {
			out = append(out, m)
		}
	}
	return LatestEpoch(out)
}
