//go:build faultinject

package main

import (
	"encoding/json"
	"time"

	"kontiki/node"
	"kontiki/raftstore"
)

// This file is in no product. A program with it can be told to break the memory of its
// replica, and has replicas look at themselves and at each other all the time, so that
// tests of whole nodes can look on as that is found out. Only this package has the tag, at
// the end of all imports: nothing below is compiled a second time for it.
func faults() node.Faults {
	return node.Faults{
		Store: func(c *raftstore.Config) { c.ScrubEvery, c.CompareEvery = time.Second, time.Second },
		OnRequest: map[string]func(*raftstore.Store, json.RawMessage) error{
			"memory": func(store *raftstore.Store, body json.RawMessage) error {
				var at struct {
					Key     string `json:"key"`
					Diverge bool   `json:"diverge"`
				}
				if err := json.Unmarshal(body, &at); err != nil {
					return err
				}
				raftstore.BreakMemory(store, at.Key, at.Diverge)
				return nil
			},
		},
	}
}
