package gossip

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

const (
	beaconMagic = "KTB1"
	beaconMax   = 256
	beaconFirst = 200 * time.Millisecond
	beaconMost  = 5 * time.Second
	beaconSlow  = 30 * time.Second // while others are in touch and a member is missing
)

var errBeacon = errors.New("gossip: not a beacon of this ring")

// beacon says "a node of this ring is here": the address is the datagram's sender.
// It is authenticated but not secret. Who replays it from elsewhere makes a node
// dial there, and fails to prove the join secret.
type beacon struct {
	nodeID, clusterID string
	clusterPort       uint16
}

func beaconKey(ringKey []byte) []byte {
	h := hmac.New(sha256.New, ringKey)
	h.Write([]byte("kontiki beacon 1"))
	return h.Sum(nil)
}

func (b beacon) encode(key []byte) []byte {
	out := append(make([]byte, 0, beaconMax), beaconMagic...)
	out = binary.BigEndian.AppendUint16(out, b.clusterPort)
	out = appendString(appendString(out, b.nodeID), b.clusterID)
	return append(out, beaconSum(key, out)...)
}

func beaconSum(key, b []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(b)
	return h.Sum(nil)
}

func decodeBeacon(key, b []byte) (beacon, error) {
	var out beacon
	body := len(b) - sha256.Size
	if len(b) > beaconMax || body < len(beaconMagic)+2 || string(b[:len(beaconMagic)]) != beaconMagic {
		return out, errBeacon
	}
	if !hmac.Equal(beaconSum(key, b[:body]), b[body:]) {
		return out, errBeacon
	}
	b = b[len(beaconMagic):body]
	out.clusterPort = binary.BigEndian.Uint16(b)
	var err error
	if out.nodeID, b, err = cutString(b[2:], maxIDLen); err != nil {
		return out, err
	}
	if out.clusterID, _, err = cutString(b, maxIDLen); err != nil {
		return out, err
	}
	if !validID(out.nodeID) || out.clusterPort == 0 || out.clusterID != "" && !validID(out.clusterID) {
		return out, errBeacon
	}
	return out, nil
}

// sendBeacon sends while it can be of use: while this node belongs to no cluster,
// or nobody is in touch; and slowly while a member is missing, because two sides of
// a split may both have moved. Others only listen, and knock where a node calls.
func (r *Ring) sendBeacon(ctx context.Context) error {
	wake, stop := r.Watch()
	defer stop()
	pause := time.Duration(0)
	var due time.Time
	failing, wasUrgent := false, false
	for {
		r.mu.Lock()
		self := &r.dir.self
		b := beacon{nodeID: self.ID, clusterID: self.ClusterID, clusterPort: self.ClusterPort}
		urgent := self.ClusterID == "" || r.dir.othersAlive() == 0
		lost, _ := r.dir.missing()
		useful := r.join != nil && (urgent || len(lost) > 0)
		r.mu.Unlock()
		most := beaconSlow
		if urgent {
			most = beaconMost
			if !wasUrgent {
				pause, due = 0, time.Time{}
			}
		}
		wasUrgent = urgent
		now := time.Now()
		switch {
		case !useful:
			pause, due = 0, time.Time{}
		case !now.Before(due):
			err := r.cfg.Beacon.Send(b.encode(beaconKey(r.keysNow().Primary)))
			if err != nil && !failing && !errors.Is(err, net.ErrClosed) {
				r.log.Warn("the beacon reaches no local network; other nodes have to be named with --join", "error", err)
			}
			failing = err != nil
			pause = min(max(pause*3/2, beaconFirst), most)
			due = now.Add(time.Duration((0.75 + 0.5*rand.Float64()) * float64(pause)))
		}
		if !waitUntil(ctx, due, wake) {
			return nil
		}
	}
}

// listenBeacon runs until the beacon is closed.
func (r *Ring) listenBeacon() {
	buf := make([]byte, beaconMax+1)
	for {
		n, from, err := r.cfg.Beacon.Receive(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		b, err := r.openBeacon(buf[:n])
		if err != nil || !from.IsValid() || !r.interested(b, from) {
			continue
		}
		select {
		case r.heard <- netip.AddrPortFrom(from.Unmap(), b.clusterPort):
		default: // the next beacon tells it again
		}
	}
}

// openBeacon takes a beacon by any key that is accepted.
func (r *Ring) openBeacon(b []byte) (out beacon, err error) {
	for _, key := range r.keysNow().accepted() {
		if out, err = decodeBeacon(beaconKey(key), b); err == nil {
			return out, nil
		}
	}
	return out, err
}

func (r *Ring) interested(b beacon, from netip.Addr) bool {
	interested, foreign := r.judgeBeacon(b, from)
	if foreign {
		r.refused(Refusal{Kind: RefusedCluster, ID: b.nodeID, Addr: from.Unmap(), ClusterID: b.clusterID})
	}
	return interested
}

func (r *Ring) judgeBeacon(b beacon, from netip.Addr) (interested, foreign bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.nodeID == r.dir.self.ID || r.dir.removed[b.nodeID] {
		return false, false
	}
	if b.clusterID != r.dir.self.ClusterID && !r.dir.admits(b.clusterID) { // a beacon names no epoch: knocking shows it
		if r.dir.refuse(b.nodeID, b.clusterID) {
			r.log.Warn("a node of another cluster with the same join secret is on this network; both clusters stay as they are",
				"id", b.nodeID, "address", from, "cluster", b.clusterID, "ownCluster", r.dir.self.ClusterID)
		}
		return false, true
	}
	// A member in touch is heard under all its addresses; if it has moved, it
	// knocks itself.
	e := r.dir.members[b.nodeID]
	return e == nil || !e.met || e.State != StateAlive, false
}
