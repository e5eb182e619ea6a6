// Package census counts what a replica holds: how many pods each node has and how they
// are, and what the Nodes say of themselves.
//
// It reads a view of the store, not the API: it needs neither a quorum nor a watch, holds
// nothing between two counts, and reads no more of a pod than it counts, so that to look
// at a cluster of ten thousand pods costs some milliseconds. All functions are pure. Only
// node imports it.
package census

import (
	"bytes"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"kontiki/raftstore"
)

// Where the objects lie, see storage.RESTOptions.
const (
	podsPrefix  = "/registry/pods/"
	nodesPrefix = "/registry/nodes/"
)

// Pods are how many pods there are somewhere. Those that have ended are not among the others.
type Pods struct {
	Running int `json:"running"`
	All     int `json:"all"`
	Ended   int `json:"ended,omitempty"` // succeeded or failed
}

// Count is what there is of pods.
type Count struct {
	Pods                     // all of them
	On       map[string]Pods // by the name of their node
	Waiting  int             // for a node, and not because somebody told them to
	Earliest time.Time       // when the first of those was made
}

// CountPods counts.
func CountPods(view raftstore.View) Count {
	c := Count{On: map[string]Pods{}}
	view.Range(podsPrefix, raftstore.PrefixEnd(podsPrefix), 0, func(kv raftstore.KV) bool {
		p, readable := readPod(kv.Value)
		if !readable {
			return true
		}
		c.add(p)
		if p.node != "" {
			on := c.On[p.node]
			on.add(p)
			c.On[p.node] = on
		} else if !p.gated && !p.ended() {
			if c.Waiting++; c.Earliest.IsZero() || p.made.Before(c.Earliest) {
				c.Earliest = p.made
			}
		}
		return true
	})
	return c
}

func (c *Pods) add(p pod) {
	switch {
	case p.ended():
		c.Ended++
		return
	case p.phase == string(corev1.PodRunning):
		c.Running++
	}
	c.All++
}

// pod is what is counted of a pod.
type pod struct {
	node, phase string
	gated       bool
	made        time.Time
}

func (p pod) ended() bool {
	return p.phase == string(corev1.PodSucceeded) || p.phase == string(corev1.PodFailed)
}

// storedMagic begins all that is stored in protobuf.
var storedMagic = []byte("k8s\x00")

// Numbers of fields, by generated.proto of k8s.io/api/core/v1 and k8s.io/apimachinery:
// they never change.
const (
	unknownRaw            = 2
	podMetadata           = 1
	podSpec               = 2
	podStatus             = 3
	metaCreationTimestamp = 8
	timeSeconds           = 1
	specNodeName          = 10
	specSchedulingGates   = 38
	statusPhase           = 1
)

// readPod reads a stored pod as far as it counts; false if it is none.
func readPod(stored []byte) (p pod, ok bool) {
	stored, ok = bytes.CutPrefix(stored, storedMagic)
	if !ok {
		return p, false
	}
	read := func(data []byte, field func(protowire.Number, []byte)) { ok = ok && fields(data, field) }
	found := false
	read(stored, func(n protowire.Number, raw []byte) {
		if n != unknownRaw {
			return
		}
		found = true
		read(raw, func(n protowire.Number, part []byte) {
			switch n {
			case podMetadata:
				read(part, func(n protowire.Number, value []byte) {
					if n == metaCreationTimestamp {
						p.made = readTime(value)
					}
				})
			case podSpec:
				read(part, func(n protowire.Number, value []byte) {
					switch n {
					case specNodeName:
						p.node = string(value)
					case specSchedulingGates:
						p.gated = true
					}
				})
			case podStatus:
				read(part, func(n protowire.Number, value []byte) {
					if n == statusPhase {
						p.phase = string(value)
					}
				})
			}
		})
	})
	return p, ok && found
}

func readTime(data []byte) time.Time {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			break
		}
		data = data[n:]
		if number == timeSeconds && kind == protowire.VarintType {
			seconds, n := protowire.ConsumeVarint(data)
			if n < 0 {
				break
			}
			return time.Unix(int64(seconds), 0)
		}
		if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
			break
		}
		data = data[n:]
	}
	return time.Time{}
}

// fields calls back for each field of a message that is bytes; false if it is malformed.
func fields(data []byte, field func(protowire.Number, []byte)) bool {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return false
		}
		data = data[n:]
		if kind == protowire.BytesType {
			value, n := protowire.ConsumeBytes(data)
			if n < 0 {
				return false
			}
			field(number, value)
			data = data[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
			return false
		}
		data = data[n:]
	}
	return true
}

// Node is what a Node says of itself.
type Node struct {
	Name    string
	Ready   corev1.ConditionStatus // Unknown if it says nothing
	Message string                 // of the condition
	// Cordoned tells that an operator keeps new pods away.
	Cordoned bool
	Subnets  []string // of its pods
	Pressure []string // what it is short of: the conditions' types
}

// Nodes lists the Nodes by name.
func Nodes(view raftstore.View) map[string]Node {
	out := map[string]Node{}
	view.Range(nodesPrefix, raftstore.PrefixEnd(nodesPrefix), 0, func(kv raftstore.KV) bool {
		var wrapped runtime.Unknown
		var node corev1.Node
		stored, ok := bytes.CutPrefix(kv.Value, storedMagic)
		if !ok || wrapped.Unmarshal(stored) != nil || node.Unmarshal(wrapped.Raw) != nil {
			return true
		}
		n := Node{Name: strings.TrimPrefix(kv.Key, nodesPrefix), Ready: corev1.ConditionUnknown, Cordoned: node.Spec.Unschedulable, Subnets: node.Spec.PodCIDRs}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady {
				n.Ready, n.Message = c.Status, c.Message
			} else if c.Status == corev1.ConditionTrue {
				n.Pressure = append(n.Pressure, string(c.Type))
			}
		}
		out[n.Name] = n
		return true
	})
	return out
}
