package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"kontiki/pki"
	"kontiki/raftstore"
)

// The join call is four JSON values on a connection on which both ends have proven the
// join secret: who asks; what the cluster's settings are; whether the node that asks can
// live with them; its admission. It is a member only once it has said that it can.

const joinLimit = 1 << 20 // bytes that either end says in a call

type joinRequest struct {
	NodeID    string `json:"nodeID"`
	Name      string `json:"name"`
	ClusterID string `json:"clusterID"`
	Replace   bool   `json:"replace,omitempty"` // take the name of a dead node
	Epoch     string `json:"epoch,omitempty"`   // of the cluster, as the ring shows it
	Knows     int    `json:"knows,omitempty"`   // version of the log's commands; 0: the first
}

type joinOffer struct {
	Settings Settings `json:"settings"`
	Error    string   `json:"error,omitempty"`
}

type joinReply struct {
	Declined string `json:"declined,omitempty"` // why; empty: the node wants to be a member
}

type joinAnswer struct {
	Admission json.RawMessage `json:"admission,omitempty"`
	Error     string          `json:"error,omitempty"`
}

// errDeclined is what a member says of a node that could not live with the settings of
// the cluster that it wanted to join.
var errDeclined = errors.New("the node does not take the cluster's settings")

// check tells what is wrong with a request whoever answers it.
func (r joinRequest) check(clusterID string, epoch raftstore.Epoch) error {
	switch {
	case !pki.ValidID(r.NodeID):
		return fmt.Errorf("%q is not a node id", r.NodeID)
	case len(r.Name) > 253 || !nodeName.MatchString(r.Name):
		return fmt.Errorf("%q cannot name a node", r.Name)
	case r.ClusterID != clusterID:
		return fmt.Errorf("this is cluster %s, not %s", clusterID, r.ClusterID)
	case r.Epoch != string(epoch):
		return fmt.Errorf("this is epoch %s of the cluster, not %s", epoch, raftstore.Epoch(r.Epoch))
	}
	return nil
}

// askToJoin is the asking end. fits judges the settings before anything is changed
// anywhere; its error is returned as it is.
func askToJoin(conn net.Conn, request joinRequest, fits func(Settings) error) (json.RawMessage, error) {
	out, in := json.NewEncoder(conn), json.NewDecoder(io.LimitReader(conn, joinLimit))
	if err := out.Encode(request); err != nil {
		return nil, err
	}
	var offer joinOffer
	if err := in.Decode(&offer); err != nil {
		return nil, err
	}
	if offer.Error != "" {
		return nil, errors.New(offer.Error)
	}
	if err := fits(offer.Settings); err != nil {
		// The member's status shall say it, too; should that fail, only this one's does.
		_ = out.Encode(joinReply{Declined: err.Error()})
		return nil, err
	}
	if err := out.Encode(joinReply{}); err != nil {
		return nil, err
	}
	var answer joinAnswer
	if err := in.Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, errors.New(answer.Error)
	}
	return answer.Admission, nil
}

// answerToJoin is the other end. letIn makes the node a member; its error is told to
// the node. request is what it asked, as far as it did. err is why it is not a member,
// or did not hear that it is.
func answerToJoin(conn net.Conn, c charter, letIn func(joinRequest) ([]byte, error)) (request joinRequest, err error) {
	out, in := json.NewEncoder(conn), json.NewDecoder(io.LimitReader(conn, joinLimit))
	if err := in.Decode(&request); err != nil {
		return request, fmt.Errorf("its request is not readable: %w", err)
	}
	if err := request.check(c.ClusterID, c.Epoch); err != nil {
		return request, errors.Join(err, out.Encode(joinOffer{Error: err.Error()}))
	}
	if err := out.Encode(joinOffer{Settings: c.Settings}); err != nil {
		return request, fmt.Errorf("tell it the cluster's settings: %w", err)
	}
	var reply joinReply
	if err := in.Decode(&reply); err != nil {
		return request, fmt.Errorf("it was told the cluster's settings and did not answer: %w", err)
	}
	if reply.Declined != "" {
		return request, fmt.Errorf("%w: %s", errDeclined, reply.Declined)
	}
	admission, err := letIn(request)
	if err != nil {
		return request, errors.Join(err, out.Encode(joinAnswer{Error: err.Error()}))
	}
	// If it does not hear this it asks again; being let in twice changes nothing.
	if err := out.Encode(joinAnswer{Admission: admission}); err != nil {
		return request, fmt.Errorf("it was let in and did not hear it: %w", err)
	}
	return request, nil
}
