package gossip

import (
	"encoding/binary"
	"fmt"
	"io"
)

// maxFrame bounds one message of formation; grants carry certificates and keys.
const maxFrame = 1 << 20

type formKind string

// The messages of formation. All are sent again until they have had their effect,
// and all may arrive late, twice and in any order.
const (
	msgPropose formKind = "propose" // coordinator: will you promise this?
	msgPromise formKind = "promise" // member: I have, here is my request
	msgRefuse  formKind = "refuse"  // member: not now, because
	msgNever   formKind = "never"   // member: I have not promised that one and never will
	msgGrant   formKind = "grant"   // coordinator: the cluster is founded, this is yours
	msgGranted formKind = "granted" // member: I hold it
	msgAsk     formKind = "ask"     // member: what became of this? (of the coordinator, or of a fellow)
	msgAbort   formKind = "abort"   // coordinator: it will never be founded
)

type refusal string

// Why a node does not promise.
const (
	refuseBusy     refusal = "busy"     // it is bound to the proposal of formMsg.Other
	refuseSettings refusal = "settings" // it wants another cluster
	refuseMember   refusal = "member"   // it belongs to a cluster, or has met one
)

type formMsg struct {
	Kind     formKind   `codec:"k"`
	From     string     `codec:"f"`
	ID       proposalID `codec:"i"`
	Proposal *proposal  `codec:"p"`
	Payload  []byte     `codec:"b"` // the request of a promise, the grant of a grant
	Reason   refusal    `codec:"r"`
	Other    string     `codec:"o"` // the coordinator that a busy node is bound to
}

func (m *formMsg) validate() error {
	if !validID(m.From) || !validID(m.ID.Coordinator) || m.ID.Number == 0 {
		return fmt.Errorf("gossip: formation message %q with malformed ids", m.Kind)
	}
	if m.Kind == msgPropose || m.Kind == msgGrant {
		if m.Proposal == nil || m.Proposal.ID != m.ID || m.From != m.ID.Coordinator {
			return fmt.Errorf("gossip: %s without the proposal that it is about", m.Kind)
		}
		return m.Proposal.validate()
	}
	return nil
}

func writeFormMsg(w io.Writer, m formMsg) error {
	b, err := pack(m)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("gossip: a %s message of %d bytes, at most %d are possible", m.Kind, len(b), maxFrame)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readFormMsg(r io.Reader) (formMsg, error) {
	var m formMsg
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return m, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return m, fmt.Errorf("gossip: a formation message claims %d bytes, at most %d are possible", n, maxFrame)
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return m, err
	}
	if len(b) < int(n) {
		return m, io.ErrUnexpectedEOF
	}
	if err := unpack(b, &m); err != nil {
		return m, err
	}
	return m, m.validate()
}
