package raftstore

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Epoch names one continuous history of a cluster. Empty is the one that began with
// the founding. A recovery and a restore begin another: what was acknowledged before
// may be missing from it, so members of different epochs must not take each other for
// fellows. It is a number, one higher than the last, and a random word, since two
// recoveries of one cluster may know nothing of each other: "2-k3v9q1…".
type Epoch string

// epochWord makes random words of digits and lower-case letters, as ids of nodes are.
var epochWord = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

const epochWordLength = 13 // of 8 bytes

// Number counts epochs from 1.
func (e Epoch) Number() uint64 {
	number, _, found := strings.Cut(string(e), "-")
	if !found {
		return 1
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return 1
	}
	return n
}

// Next makes an epoch that follows this one.
func (e Epoch) Next() Epoch { return newEpoch(e.Number() + 1) }

// NextAt makes an epoch that follows this one and all that may have come after it until
// now: a snapshot does not know of the epochs since it was taken.
func (e Epoch) NextAt(now time.Time) Epoch {
	return newEpoch(max(e.Number()+1, uint64(max(now.Unix(), 0))))
}

func newEpoch(number uint64) Epoch {
	var raw [8]byte
	rand.Read(raw[:])
	return Epoch(fmt.Sprintf("%d-%s", number, epochWord.EncodeToString(raw[:])))
}

// String is the epoch for people: "1" for the first.
func (e Epoch) String() string {
	if e == "" {
		return "1"
	}
	return string(e)
}

// ErrEpoch is wrapped when a node of another epoch is refused.
var ErrEpoch = errors.New("it is of another epoch of the cluster")

// Valid tells whether e has the form of an epoch.
func (e Epoch) Valid() error {
	if e == "" {
		return nil
	}
	number, word, _ := strings.Cut(string(e), "-")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || n < 2 || len(word) != epochWordLength || strings.Trim(word, "0123456789abcdefghjkmnpqrstvwxyz") != "" {
		return fmt.Errorf("raftstore: %q is no epoch of a cluster", string(e))
	}
	return nil
}

// EpochsDiffer is the error of a node of epoch own that meets one of epoch other: it
// says which of the two has to give way, and how.
func EpochsDiffer(node string, own, other Epoch) error {
	stale := "which began when the cluster was recovered or restored: the members of epoch %[3]s, this node among them, are left behind. Stop this node, run kontiki reset --membership, and start it again: it joins epoch %[2]s with its name"
	if own.Number() > other.Number() {
		stale = "which was left behind when the cluster was recovered or restored. Stop that node, run kontiki reset --membership there, and start it again: it joins epoch %[3]s with its name"
	} else if own.Number() == other.Number() {
		stale = "and this node to epoch %[3]s: the cluster was recovered or restored twice. Decide which one is to stay; stop all nodes of the other, run kontiki reset --membership on each, and start them again"
	}
	return fmt.Errorf("node %[1]s is refused: %[4]w: it belongs to epoch %[2]s, "+stale, node, other, own, ErrEpoch)
}
