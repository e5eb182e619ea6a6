package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Limits of what a node may say about itself. Together they stay below
// memberlist's 512 bytes of metadata.
const (
	maxIDLen      = 40
	maxNameLen    = 128
	maxZoneLen    = 63
	maxVersionLen = 48
	maxEpochLen   = 40
)

// Streams carries one protocol between nodes. Both ends have proven that they
// know the join secret before a connection is handed over.
type Streams interface {
	// Accept returns the next connection, or an error that wraps net.ErrClosed
	// after Close.
	Accept() (net.Conn, error)
	// Close may be called more than once.
	Close() error
	// Dial connects to a node's cluster port. Where nothing answers at all it should
	// give up after a second or two: a kernel repeats what was lost after one, three and
	// seven seconds, and a node that is in reach again is found sooner by another try.
	Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
}

// Beacon carries small datagrams to whoever listens on the local networks. The
// ring authenticates what it sends; a Beacon need not.
type Beacon interface {
	// Send sends to every local network it can; an error means that it reached none.
	Send(b []byte) error
	// Receive returns the next datagram and its sender, or an error that wraps
	// net.ErrClosed after Close.
	Receive(b []byte) (int, netip.Addr, error)
	// Close may be called more than once.
	Close() error
}

// Meta is what a node says about itself and may change while it runs.
type Meta struct {
	// ClusterID is empty while the node belongs to no cluster.
	ClusterID string
	// Epoch is that of the cluster; empty until it was recovered or restored. Members of
	// different epochs refuse each other.
	Epoch   string
	Zone    string
	Version string
}

// Config says what a Ring needs. NodeID, Name, Keys, Advertise, ClusterPort,
// Ring, Dir and Logger are required.
type Config struct {
	// NodeID is made once per data directory: lower-case letters and digits.
	NodeID string
	// Name is the node's name for people.
	Name string
	// Incarnation is a floor for the count of lives that the ring keeps in Dir;
	// 0 is right unless that count may have been lost.
	Incarnation uint64
	// Keys are derived from the join secret. SetKeys changes them.
	Keys Keys
	// UDP is where the ring's datagrams are received, port 7946 by default; port
	// 0 takes a free one.
	UDP netip.AddrPort
	// Packets, if set, is used instead of a socket on UDP.
	Packets net.PacketConn
	// Advertise returns the address by which other nodes reach this one. It is
	// asked again every few seconds; when the answer changes, the node enters the
	// ring anew under its new address.
	Advertise func() netip.Addr
	// ClusterPort is this node's TCP port for everything between nodes, and the
	// default port of Join's names.
	ClusterPort uint16
	// Ring carries the ring's streams. The ring closes it when Run returns.
	Ring Streams
	// Beacon finds nodes on the local networks (ListenBeacon); nil for none. The
	// ring closes it when Run returns.
	Beacon Beacon
	// BeaconPort, if Beacon is nil, is the UDP port on which the ring opens a
	// beacon beside its own socket (ListenBeacon); 0 for none. A machine that
	// cannot have one is found by Join alone.
	BeaconPort uint16
	// Join are addresses or names, with or without a port, of nodes to look for,
	// resolved again and again.
	Join []string
	// Lookup resolves a name of Join; nil means the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Dir holds the address book, the leases and the formation's promises.
	Dir    string
	Meta   Meta
	Logger *slog.Logger
	// Refused, if set, is told of every node that the ring keeps out, each time it
	// is. It must return quickly and not call the ring.
	Refused func(Refusal)
	// Tuning changes the failure detector's pace; zero fields mean the defaults.
	Tuning Tuning
}

// Tuning is the pace of failure detection. The defaults notice a killed member
// after about 2.5 s in a ring of three and 3.5 s in one of fifty.
type Tuning struct {
	ProbeInterval  time.Duration // 500 ms
	ProbeTimeout   time.Duration // 200 ms
	GossipInterval time.Duration // 100 ms
	PushPull       time.Duration // 15 s
	// Absent is how long a member that is only remembered from disk stays
	// StateUnknown before it counts as dead: 10 s.
	Absent time.Duration
}

func (t Tuning) withDefaults() Tuning {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	set(&t.ProbeInterval, 500*time.Millisecond)
	set(&t.ProbeTimeout, 200*time.Millisecond)
	set(&t.GossipInterval, 100*time.Millisecond)
	set(&t.PushPull, 15*time.Second)
	set(&t.Absent, 10*time.Second)
	return t
}

func (c *Config) validate() error {
	switch {
	case !validID(c.NodeID):
		return fmt.Errorf("gossip: node id %q: want 1 to %d lower-case letters and digits", c.NodeID, maxIDLen)
	case c.Keys.validate() != nil:
		return c.Keys.validate()
	case c.Advertise == nil:
		return errors.New("gossip: Config.Advertise is required")
	case c.ClusterPort == 0:
		return errors.New("gossip: Config.ClusterPort is required")
	case c.Ring == nil:
		return errors.New("gossip: Config.Ring is required")
	case c.Dir == "":
		return errors.New("gossip: Config.Dir is required")
	case c.Logger == nil:
		return errors.New("gossip: Config.Logger is required")
	case c.Name == "" || len(c.Name) > maxNameLen:
		return fmt.Errorf("gossip: node name %q: want 1 to %d bytes", c.Name, maxNameLen)
	}
	return c.Meta.validate()
}

func (m Meta) validate() error {
	switch {
	case m.ClusterID != "" && !validID(m.ClusterID):
		return fmt.Errorf("gossip: cluster id %q: want up to %d lower-case letters and digits", m.ClusterID, maxIDLen)
	case len(m.Epoch) > maxEpochLen || m.Epoch != "" && m.ClusterID == "":
		return fmt.Errorf("gossip: epoch %q: want up to %d bytes, and a cluster", m.Epoch, maxEpochLen)
	case len(m.Zone) > maxZoneLen:
		return fmt.Errorf("gossip: zone %q is longer than %d bytes", m.Zone, maxZoneLen)
	case len(m.Version) > maxVersionLen:
		return fmt.Errorf("gossip: version %q is longer than %d bytes", m.Version, maxVersionLen)
	}
	return nil
}

// validID keeps ids free of the separator of member names.
func validID(id string) bool {
	return id != "" && len(id) <= maxIDLen && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}
