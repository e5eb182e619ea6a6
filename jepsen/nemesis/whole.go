package nemesis

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"kontiki/jepsen/history"
)

// account is what the nemesis reads of what a node says of itself.
type account struct {
	Phase   string `json:"phase"`
	Cluster string `json:"cluster"`
	Leader  string `json:"leader"`
	Members []struct {
		ID     string `json:"id"`
		Name   string `json:"name"`
		Role   string `json:"role"`
		Health string `json:"health"`
	} `json:"members"`
}

func (a account) voters() (n int) {
	for _, m := range a.Members {
		if m.Role == "voter" {
			n++
		}
	}
	return n
}

// ask is what the first host says.
func (n *Nemesis) ask(ctx context.Context) (a account, err error) {
	raw, err := n.lab.Hosts()[0].Status(ctx)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(raw, &a)
}

// leader is the host that most nodes hold for the leader's, empty if none does.
func (n *Nemesis) leader(ctx context.Context) (leader string) {
	votes := make(map[string]int)
	for _, s := range n.lab.Status(ctx) {
		if s.Leader != "" {
			votes[s.Leader]++
		}
	}
	for _, name := range n.hostNames() {
		if votes[name] > votes[leader] {
			leader = name
		}
	}
	return leader
}

// BecomeWhole waits until the cluster is whole, and writes down whether it became that.
func (n *Nemesis) BecomeWhole(ctx context.Context) error {
	n.process--
	e := n.recorder.Record(history.Event{Type: history.Invoke, Process: n.process, F: history.Whole})
	until, cancel := context.WithTimeout(ctx, wholeTime)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := n.whole(until)
		if err == nil {
			e.Type = history.OK
			n.recorder.Record(e)
			return nil
		}
		select {
		case <-tick.C:
		case <-until.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			e.Type, e.Error = history.Fail, err.Error()
			n.recorder.Record(e)
			return fmt.Errorf("%w within %v: %w", ErrNotWhole, wholeTime, err)
		}
	}
}

// whole tells what is missing to a cluster in which every node runs, all agree on the
// leader and its members, all of them are alive, and as many vote as at the beginning.
func (n *Nemesis) whole(ctx context.Context) error {
	var first account
	for i, h := range n.lab.Hosts() {
		raw, err := h.Status(ctx)
		if err != nil {
			return err
		}
		var a account
		if err := json.Unmarshal(raw, &a); err != nil {
			return fmt.Errorf("status of %s: %w", h.Name, err)
		}
		if i == 0 {
			first = a
		}
		switch {
		case a.Phase != "running":
			return fmt.Errorf("%s is %s", h.Name, a.Phase)
		case a.Leader == "":
			return fmt.Errorf("%s knows no leader", h.Name)
		case a.Leader != first.Leader || a.Cluster != first.Cluster:
			return fmt.Errorf("%s knows another leader or cluster than %s", h.Name, n.lab.Hosts()[0].Name)
		case len(a.Members) != len(n.lab.Hosts()):
			return fmt.Errorf("%s knows %d members of %d", h.Name, len(a.Members), len(n.lab.Hosts()))
		case a.voters() != n.voters:
			return fmt.Errorf("%s knows %d voters of %d", h.Name, a.voters(), n.voters)
		}
		for _, m := range a.Members {
			if m.Health != "alive" {
				return fmt.Errorf("%s holds %s for %s", h.Name, m.Name, m.Health)
			}
		}
	}
	return nil
}
