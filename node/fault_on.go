//go:build faultinject

package node

import (
	"net/http"
	"time"

	"kontiki/raftstore"
)

// This file is in no product, see raftstore/fault.go.

// FaultQuery is the body of a request to /fault/memory.
type FaultQuery struct {
	Key     string `json:"key"`
	Diverge bool   `json:"diverge"`
}

func (n *node) adminFaults(mux *http.ServeMux) {
	mux.HandleFunc("POST /fault/memory", func(w http.ResponseWriter, r *http.Request) {
		var q FaultQuery
		if n.question(w, r, &q) {
			n.store.BreakMemory(q.Key, q.Diverge)
			answer(w, Message{"broken"}, nil)
		}
	})
}

// selfCheckPace has replicas look at themselves and at each other all the time.
func selfCheckPace(c raftstore.Config) raftstore.Config {
	c.ScrubEvery, c.CompareEvery = time.Second, time.Second
	return c
}
