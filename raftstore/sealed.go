package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// Checksums of what lies on disk beside the commands, which have their own: terms and votes,
// and what is around an entry's data. Neither log store has any (bbolt) or all (raft-wal) of
// them, and a vote that a broken bit made another would be cast twice. A directory has them
// from format dirFormatSealed on.

const (
	sealMark   = 1 // the first byte of a sealed value
	sealLength = 5 // mark, CRC-32C
)

func sealSum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// seal puts a checksum before a value.
func seal(key, value []byte) []byte {
	b := append(make([]byte, 0, sealLength+len(value)), sealMark)
	return append(binary.BigEndian.AppendUint32(b, sealSum(key, value)), value...)
}

func unseal(key, b []byte) ([]byte, error) {
	if len(b) < sealLength || b[0] != sealMark || binary.BigEndian.Uint32(b[1:]) != sealSum(key, b[sealLength:]) {
		return nil, fmt.Errorf("raftstore: %q on disk is damaged", key)
	}
	return b[sealLength:], nil
}

// Get reads what Set has stored.
func (d *disk) Get(k []byte) ([]byte, error) {
	b, err := d.logStore.Get(k)
	if err != nil || !d.sealed || len(b) == 0 {
		return b, err
	}
	return unseal(k, b)
}

// GetUint64 reads what SetUint64 has stored.
func (d *disk) GetUint64(k []byte) (uint64, error) {
	if !d.sealed {
		return d.logStore.GetUint64(k)
	}
	b, err := d.Get(k)
	if err != nil || len(b) == 0 {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("raftstore: %q on disk is no number", k)
	}
	return binary.BigEndian.Uint64(b), nil
}

func (d *disk) store(k, v []byte) error {
	if d.sealed {
		v = seal(k, v)
	}
	return d.logStore.Set(k, v)
}

func (d *disk) storeUint64(k []byte, v uint64) error {
	if !d.sealed {
		return d.logStore.SetUint64(k, v)
	}
	return d.store(k, binary.BigEndian.AppendUint64(nil, v))
}

// stableKeys are what is kept beside entries: Raft's own, and the commit marker.
var stableKeys = [][]byte{[]byte(keyTerm), []byte("LastVoteTerm"), []byte("LastVoteCand"), keyCommit}

// checkStable reads all that is sealed. Raft would take a vote that cannot be read for none.
func (d *disk) checkStable() error {
	if !d.sealed {
		return nil
	}
	for _, k := range stableKeys {
		if _, err := d.Get(k); err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
			return fmt.Errorf("%w, in %s: remove this node from the cluster, empty its directory, and let it join again", err, d.dir)
		}
	}
	return nil
}

// An entry's Extensions hold the commit index known when it was stored (8 bytes), and in a
// sealed directory a CRC-32C of all that matters of the entry (4 bytes).
const (
	extensionCommit = 8
	extensionSealed = 12
)

func sealEntry(l *raft.Log, commit uint64) {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, extensionSealed), commit)
	l.Extensions = binary.BigEndian.AppendUint32(b, entrySum(l, b))
}

func entrySum(l *raft.Log, commit []byte) uint32 {
	var head [17]byte
	binary.BigEndian.PutUint64(head[:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	return crc32.Update(crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, commit), castagnoli, l.Data)
}

// checkSealed tells whether an entry is as it was sealed, if it was.
func checkSealed(l *raft.Log) error {
	if len(l.Extensions) != extensionSealed {
		return nil
	}
	commit, sum := l.Extensions[:extensionCommit], binary.BigEndian.Uint32(l.Extensions[extensionCommit:])
	if got := entrySum(l, commit); got != sum {
		return fmt.Errorf("its checksum is %08x, expected %08x", got, sum)
	}
	return nil
}
