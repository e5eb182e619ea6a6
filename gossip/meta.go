package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

var (
	errTruncated   = errors.New("gossip: truncated")
	errMetaVersion = errors.New("gossip: metadata of an unknown version")
	errTooLong     = errors.New("gossip: a field is longer than its limit")
)

const metaVersion = 1

const (
	flagLeaving = 1 << iota // the node is about to leave the ring in an orderly way
	flagForming             // the node waits for a cluster to be formed; form is set
	flagKeys                // keyStep follows
	flagEpoch               // epoch follows at the end
)

// metadata is what memberlist carries with each alive message, 512 bytes at most.
type metadata struct {
	name, zone, version, clusterID, epoch string
	clusterPort                           uint16
	leaving                               bool
	form                                  *formStance
	keyStep                               uint64
}

// formStance is what a blank node says about the cluster that it wants to form.
type formStance struct {
	expect   int
	settings [8]byte // a digest: equal settings have equal digests
	bound    string  // the coordinator whose proposal this node has promised, if that is another node
}

// encode lays the metadata out as a version byte, flags, port, then strings with
// their lengths in front. Decoders ignore what follows the fields that they know.
func (m metadata) encode() []byte {
	b := make([]byte, 0, 160)
	flags := byte(0)
	if m.leaving {
		flags |= flagLeaving
	}
	if m.form != nil {
		flags |= flagForming
	}
	if m.keyStep != 0 {
		flags |= flagKeys
	}
	if m.epoch != "" {
		flags |= flagEpoch
	}
	b = append(b, metaVersion, flags)
	b = binary.BigEndian.AppendUint16(b, m.clusterPort)
	for _, s := range []string{m.name, m.zone, m.version, m.clusterID} {
		b = appendString(b, s)
	}
	if f := m.form; f != nil {
		b = binary.AppendUvarint(b, uint64(f.expect))
		b = append(b, f.settings[:]...)
		b = appendString(b, f.bound)
	}
	if m.keyStep != 0 {
		b = binary.AppendUvarint(b, m.keyStep)
	}
	if m.epoch != "" {
		b = appendString(b, m.epoch)
	}
	return b
}

func decodeMetadata(b []byte) (metadata, error) {
	var m metadata
	if len(b) < 4 {
		return m, errTruncated
	}
	if b[0] != metaVersion {
		return m, fmt.Errorf("%w: %d", errMetaVersion, b[0])
	}
	flags := b[1]
	m.leaving = flags&flagLeaving != 0
	m.clusterPort = binary.BigEndian.Uint16(b[2:])
	b = b[4:]
	var err error
	for _, f := range []struct {
		to  *string
		max int
	}{{&m.name, maxNameLen}, {&m.zone, maxZoneLen}, {&m.version, maxVersionLen}, {&m.clusterID, maxIDLen}} {
		if *f.to, b, err = cutString(b, f.max); err != nil {
			return m, err
		}
	}
	if m.clusterID != "" && !validID(m.clusterID) {
		return m, fmt.Errorf("gossip: cluster id %q is malformed", m.clusterID)
	}
	if flags&flagForming != 0 {
		if m.form, b, err = cutStance(b); err != nil {
			return m, err
		}
	}
	if flags&flagKeys != 0 {
		n := 0
		if m.keyStep, n = binary.Uvarint(b); n <= 0 {
			return m, errTruncated
		}
		b = b[n:]
	}
	if flags&flagEpoch != 0 {
		if m.epoch, _, err = cutString(b, maxEpochLen); err != nil {
			return m, err
		}
	}
	return m, nil
}

func cutStance(b []byte) (*formStance, []byte, error) {
	form := &formStance{}
	expect, n := binary.Uvarint(b)
	if n <= 0 || expect > maxExpect || len(b) < n+len(form.settings) {
		return nil, nil, errTruncated
	}
	form.expect = int(expect)
	copy(form.settings[:], b[n:])
	var err error
	form.bound, b, err = cutString(b[n+len(form.settings):], maxIDLen)
	return form, b, err
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func cutString(b []byte, max int) (string, []byte, error) {
	l, n := binary.Uvarint(b)
	if n <= 0 {
		return "", nil, errTruncated
	}
	if l > uint64(max) {
		return "", nil, errTooLong
	}
	if uint64(len(b)-n) < l {
		return "", nil, errTruncated
	}
	end := n + int(l)
	return string(b[n:end]), b[end:], nil
}

// memberName is a node's name inside memberlist. It changes with every life,
// because memberlist refuses a known name at a new address.
func memberName(id string, life uint64) string {
	return id + "." + strconv.FormatUint(life, 36)
}

func parseMemberName(name string) (id string, life uint64, err error) {
	id, l, ok := strings.Cut(name, ".")
	if !ok || !validID(id) {
		return "", 0, fmt.Errorf("gossip: member name %q is malformed", name)
	}
	if life, err = strconv.ParseUint(l, 36, 64); err != nil {
		return "", 0, fmt.Errorf("gossip: member name %q is malformed", name)
	}
	return id, life, nil
}
