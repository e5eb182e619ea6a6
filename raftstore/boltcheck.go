package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// raft.db, and wal-meta.db beside segment files, are read once before they are opened: bbolt has checksums on its two header
// pages only, trusts the rest, and ends the process on much of what it finds
// damaged. It also takes the other header, and with it the state of one
// transaction ago, if the newest is damaged; what was written last would be
// missing. (A crash does not do that: a header is written within one sector.)
//
// The format is bbolt's: pages of a tree, each with a header of 16 bytes and
// elements that point to keys and values behind them.
const (
	boltMagic     = 0xED0CDAED
	boltVersion   = 2
	boltHeader    = 16 // of a page: id (8), flags (2), count (2), overflow (4)
	boltMeta      = 64 // of a header page, behind it; the checksum is its end
	boltElement   = 16 // of a branch and of a leaf
	boltBranch    = 0x01
	boltLeaf      = 0x02
	boltIsBucket  = 0x01 // flag of a leaf's element: the value is a bucket
	boltFree      = 0x10 // kind of a page that lists free ones
	boltNoFree    = 1<<64 - 1
	boltBucket    = 16 // head of a bucket: root page (8), sequence (8)
	boltMaxDepth  = 32
	boltMaxLength = 1 << 30
)

// boltFile is a file under check.
type boltFile struct {
	file     io.ReaderAt
	pageSize int
	pages    uint64          // all page ids are below it
	seen     map[uint64]bool // pages of the trees, those that a long page reaches over too
}

// visitor sees the elements of leaves.
type visitor func(key, value []byte, flags uint32) error

// logBuckets are what raft-boltdb keeps in raft.db.
var logBuckets = map[string]visitor{"logs": checkLog, "conf": checkSetting}

// checkBolt reads everything in a bbolt file, and says what is damaged. Each bucket's
// elements are shown to its visitor. A file that does not exist is whole.
func checkBolt(path string, buckets map[string]visitor) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("raftstore: %w", err)
	}
	defer f.Close()
	// As bbolt locks it. What another process is writing would look like damage.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return inUse(path)
	} else if err != nil {
		return fmt.Errorf("raftstore: lock %s: %w", path, err)
	}
	b := &boltFile{file: f, seen: make(map[uint64]bool)}
	if err := b.check(buckets); err != nil {
		return fmt.Errorf("raftstore: %s is damaged: %w: remove this node from the cluster, empty its directory, and let it join again", path, err)
	}
	return nil
}

func (b *boltFile) check(buckets map[string]visitor) error {
	var head [boltHeader + boltMeta]byte
	if _, err := b.file.ReadAt(head[:], 0); err != nil {
		return fmt.Errorf("header 0: %w", err)
	}
	b.pageSize = int(binary.LittleEndian.Uint32(head[boltHeader+8:]))
	if b.pageSize < 512 || b.pageSize > 1<<16 || b.pageSize&(b.pageSize-1) != 0 {
		return fmt.Errorf("header 0 names pages of %d bytes", b.pageSize)
	}
	var root, free, txid uint64
	for i := range int64(2) {
		if _, err := b.file.ReadAt(head[:], i*int64(b.pageSize)); err != nil {
			return fmt.Errorf("header %d: %w", i, err)
		}
		meta := head[boltHeader:]
		sum := fnv.New64a()
		sum.Write(meta[:boltMeta-8])
		if binary.LittleEndian.Uint32(meta) != boltMagic || binary.LittleEndian.Uint32(meta[4:]) != boltVersion ||
			binary.LittleEndian.Uint64(meta[boltMeta-8:]) != sum.Sum64() {
			return fmt.Errorf("header %d: its checksum is wrong", i)
		}
		if id := binary.LittleEndian.Uint64(meta[48:]); id >= txid {
			txid, root, free = id, binary.LittleEndian.Uint64(meta[16:]), binary.LittleEndian.Uint64(meta[32:])
			b.pages = binary.LittleEndian.Uint64(meta[40:])
		}
	}
	found := 0
	err := b.walk(root, boltMaxDepth, keyRange{}, func(name, value []byte, flags uint32) error {
		found++
		visit := buckets[string(name)]
		switch {
		case flags&boltIsBucket == 0:
			return errors.New("a value lies outside of all buckets")
		case visit == nil:
			return fmt.Errorf("there is a bucket %q, which nobody made", name)
		}
		return b.bucket(value, visit)
	})
	if err == nil && found > 0 && found < len(buckets) { // all are made in one transaction
		err = errors.New("one of its buckets is missing")
	}
	if err == nil && free != boltNoFree {
		err = b.free(free)
	}
	return err
}

// keyRange holds the keys that a page may have: from "from" on, below "below", which is nil
// at a tree's right edge. bbolt ends the process on a page that has others.
type keyRange struct{ from, below []byte }

// bucket walks a bucket that a leaf holds: whole, or by its root page.
func (b *boltFile) bucket(value []byte, visit visitor) error {
	if len(value) < boltBucket {
		return errors.New("a bucket is cut short")
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return b.walk(root, boltMaxDepth, keyRange{}, visit)
	}
	return b.elements(value[boltBucket:], 0, keyRange{}, visit)
}

// walk reads a page and all below it.
func (b *boltFile) walk(id uint64, depth int, keys keyRange, visit visitor) error {
	if depth == 0 {
		return fmt.Errorf("the tree is deeper than it can be, at page %d", id)
	}
	page, err := b.page(id)
	if err != nil {
		return err
	}
	if err := b.elements(page, depth, keys, visit); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// page reads a page, which nothing else may have named yet.
func (b *boltFile) page(id uint64) ([]byte, error) {
	if id < 2 || id >= b.pages {
		return nil, fmt.Errorf("page %d is named, of %d", id, b.pages)
	}
	if b.seen[id] {
		return nil, fmt.Errorf("page %d is another's already", id)
	}
	page := make([]byte, b.pageSize)
	if _, err := b.file.ReadAt(page, int64(id)*int64(b.pageSize)); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	if got := binary.LittleEndian.Uint64(page); got != id {
		return nil, fmt.Errorf("page %d says that it is page %d", id, got)
	}
	more := uint64(binary.LittleEndian.Uint32(page[12:]))
	if more > 0 {
		if id+more >= b.pages || more*uint64(b.pageSize) > boltMaxLength {
			return nil, fmt.Errorf("page %d reaches over %d more", id, more)
		}
		rest := make([]byte, int(more)*b.pageSize)
		if _, err := b.file.ReadAt(rest, int64(id+1)*int64(b.pageSize)); err != nil {
			return nil, fmt.Errorf("page %d: %w", id, err)
		}
		page = append(page, rest...)
	}
	for n := id; n <= id+more; n++ {
		if b.seen[n] {
			return nil, fmt.Errorf("page %d reaches over page %d, which is another's", id, n)
		}
		b.seen[n] = true
	}
	return page, nil
}

// free checks the list of free pages, after all trees: one that is in use would be written over.
func (b *boltFile) free(id uint64) error {
	page, err := b.page(id)
	if err != nil {
		return err
	}
	list, count := page[boltHeader:], uint64(binary.LittleEndian.Uint16(page[10:]))
	if count == 0xFFFF { // it does not fit there
		count, list = binary.LittleEndian.Uint64(list), list[8:]
	}
	if binary.LittleEndian.Uint16(page[8:]) != boltFree || count > uint64(len(list)/8) {
		return fmt.Errorf("page %d is no list of %d free pages", id, count)
	}
	for i := range count {
		n := binary.LittleEndian.Uint64(list[8*i:])
		if n < 2 || n >= b.pages || b.seen[n] {
			return fmt.Errorf("page %d holds page %d for free, which it is not", id, n)
		}
		b.seen[n] = true
	}
	return nil
}

func (b *boltFile) elements(page []byte, depth int, keys keyRange, visit visitor) error {
	if len(page) < boltHeader {
		return errors.New("it is cut short")
	}
	flags, count := binary.LittleEndian.Uint16(page[8:]), int(binary.LittleEndian.Uint16(page[10:]))
	if flags != boltBranch && flags != boltLeaf || len(page) < boltHeader+count*boltElement {
		return fmt.Errorf("it is of kind %d with %d elements", flags, count)
	}
	if flags == boltBranch && count == 0 {
		return errors.New("it is a branch without elements")
	}
	// Nothing follows on from a count of zero, so it would hide all entries. bbolt writes a page
	// that is empty as zeros (it clears those that it uses again).
	if count == 0 && slices.ContainsFunc(page[boltHeader:], func(b byte) bool { return b != 0 }) {
		return errors.New("it says that it has no elements, and is not empty")
	}
	// element is one of the page: its key, and the value or, in a branch, the page below.
	type element struct {
		key, value []byte
		flags      uint32
		below      uint64
	}
	all := make([]element, count)
	// bbolt writes a page at once, its keys and values without gaps behind the elements: a
	// count that is too small would otherwise hide the last entries.
	next := uint64(boltHeader + count*boltElement)
	for i := range all {
		at := boltHeader + i*boltElement
		e := page[at:]
		number := func(n int) uint32 { return binary.LittleEndian.Uint32(e[n:]) }
		var pos, ksize, vsize uint32
		if flags == boltBranch {
			pos, ksize, all[i].below = number(0), number(4), binary.LittleEndian.Uint64(e[8:])
		} else {
			all[i].flags, pos, ksize, vsize = number(0), number(4), number(8), number(12)
		}
		from := uint64(at) + uint64(pos)
		if from != next {
			return fmt.Errorf("element %d does not follow what is before it", i)
		}
		if next = from + uint64(ksize) + uint64(vsize); next > uint64(len(page)) {
			return fmt.Errorf("element %d reaches beyond its end", i)
		}
		all[i].key, all[i].value = page[from:from+uint64(ksize)], page[from+uint64(ksize):next]
		if i > 0 && bytes.Compare(all[i-1].key, all[i].key) >= 0 || bytes.Compare(all[i].key, keys.from) < 0 ||
			keys.below != nil && bytes.Compare(all[i].key, keys.below) >= 0 {
			return fmt.Errorf("element %d is out of order", i)
		}
	}
	for i, e := range all {
		var err error
		if flags == boltBranch {
			under := keyRange{e.key, keys.below}
			if i+1 < count {
				under.below = all[i+1].key
			}
			err = b.walk(e.below, depth-1, under, visit)
		} else {
			err = visit(e.key, e.value, e.flags)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkSetting checks an element beside the log: a term or vote under another name, or without a
// value, would be none. What it holds has a checksum of its own.
func checkSetting(name, value []byte, flags uint32) error {
	known := slices.ContainsFunc(stableKeys, func(k []byte) bool { return bytes.Equal(k, name) }) && len(value) > 0
	if !known && !bytes.Equal(name, keyProbe) || flags != 0 {
		return fmt.Errorf("beside the log is %q, which nobody stored", name)
	}
	return nil
}

// checkLog checks one entry of the log.
func checkLog(key, value []byte, flags uint32) error {
	if len(key) != 8 || flags != 0 {
		return errors.New("the log holds something that is no entry")
	}
	index := binary.BigEndian.Uint64(key) // an installed snapshot may leave a gap
	var l raft.Log
	if err := decodeLog(value, &l); err != nil {
		return fmt.Errorf("log entry %d: %w", index, err)
	}
	if err := checkEntry(index, &l); err != nil {
		return fmt.Errorf("log entry %d of term %d: %w", index, l.Term, err)
	}
	return nil
}

// checkEntry tells whether an entry is what was stored at index.
func checkEntry(index uint64, l *raft.Log) error {
	if l.Index != index {
		return fmt.Errorf("it says that it is %d", l.Index)
	}
	if err := checkSealed(l); err != nil {
		return err
	}
	if l.Type == raft.LogCommand {
		if _, err := entryBody(l.Data); err != nil && !errors.Is(err, errUnknownVersion) {
			return err
		}
	}
	return nil
}

// decodeLog decodes what raft-boltdb stores.
func decodeLog(b []byte, l *raft.Log) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("malformed: %v", p)
		}
	}()
	return codec.NewDecoderBytes(b, new(codec.MsgpackHandle)).Decode(l)
}
