package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// A log entry is
//
//	format (1 byte) | CRC-32C of the rest (4 bytes) | { length (uvarint) | command }…
//
// and a command is its version (1 byte) followed by msgpack. Structs are
// encoded as arrays: fields are only ever added at the end, and a change that
// an older program would misread gets a new version. Commands are written in the
// version at which the gate stands (gate.go), so that every member can read them.
const (
	entryFormat = 1
	entryHeader = 5
	// firstVersion of commands is read by every program.
	firstVersion = 1
)

type commandKind uint8

const (
	kindTxn     commandKind = 1
	kindOpen    commandKind = 2 // opens a session for Node
	kindExpire  commandKind = 3 // ends the sessions of Node
	kindCompact commandKind = 4
	kindGate    commandKind = 5 // opens the gate for commands of version Gate
)

// command is what one entry of a batch says. Ids and times are the proposer's:
// the FSM has neither clock nor randomness.
type command struct {
	Kind     commandKind
	Session  uint64
	Sequence uint64
	Floor    uint64 // lowest sequence of the session that is still outstanding
	Term     uint64 // 0, or the only Raft term under which the command may happen

	Compares []Compare
	Ops      []operation

	Node        string // open, expire
	Incarnation string // open
	Revision    uint64 // compact
	Gate        uint8  // gate
}

type operation struct {
	Kind        OpKind
	Key         string
	Value       []byte
	ExpiresUnix int64
}

type resultCode uint8

const (
	codeDone           resultCode = 1
	codeFenced         resultCode = 2
	codeUnknownSession resultCode = 3
	codeBelowFloor     resultCode = 4
)

type result struct {
	Code    resultCode
	Txn     TxnResult
	Session uint64 // of open
}

// errUnknownVersion is wrapped by decoders that meet what a newer program wrote.
var errUnknownVersion = errors.New("written by a newer version of this program")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newHandle makes the codec settings. Handles cache and are shared.
func newHandle() *codec.MsgpackHandle {
	h := &codec.MsgpackHandle{WriteExt: true}
	h.StructToArray = true
	return h
}

var msgpack = newHandle()

func marshal(v any) ([]byte, error) {
	var b []byte
	err := codec.NewEncoderBytes(&b, msgpack).Encode(v)
	return b, err
}

// unmarshal decodes one value. The codec panics on some malformed input; here
// that is an error as any other.
func unmarshal(b []byte, v any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("malformed msgpack: %v", p)
		}
	}()
	return codec.NewDecoderBytes(b, msgpack).Decode(v)
}

// encodeCommand writes a command in the first version.
func encodeCommand(c *command) ([]byte, error) { return encodeCommandIn(firstVersion, c) }

func encodeCommandIn(version uint8, c *command) ([]byte, error) {
	b, err := marshal(c)
	if err != nil {
		return nil, err
	}
	return append([]byte{version}, b...), nil
}

// decodeCommand reads a command of a program that knows versions up to one.
func decodeCommand(b []byte, knows uint8) (command, error) {
	var c command
	if len(b) == 0 {
		return c, errors.New("empty command")
	}
	if b[0] < firstVersion {
		return c, fmt.Errorf("command of version %d, which there never was", b[0])
	}
	if b[0] > knows {
		return c, fmt.Errorf("command of version %d: %w", b[0], tooOld(b[0], knows))
	}
	if err := unmarshal(b[1:], &c); err != nil {
		return c, fmt.Errorf("command: %w", err)
	}
	if c.Kind < kindTxn || c.Kind > kindGate {
		return c, fmt.Errorf("command of kind %d: %w", c.Kind, errUnknownVersion)
	}
	if c.Gate > knows {
		return c, tooOld(c.Gate, knows)
	}
	return c, nil
}

func encodeEntry(commands [][]byte) []byte {
	size := entryHeader
	for _, c := range commands {
		size += binary.MaxVarintLen32 + len(c)
	}
	b := make([]byte, entryHeader, size)
	for _, c := range commands {
		b = binary.AppendUvarint(b, uint64(len(c)))
		b = append(b, c...)
	}
	b[0] = entryFormat
	binary.BigEndian.PutUint32(b[1:], crc32.Checksum(b[entryHeader:], castagnoli))
	return b
}

// entryBody checks an entry and returns the commands in it, still encoded.
func entryBody(b []byte) ([]byte, error) {
	if len(b) < entryHeader {
		return nil, fmt.Errorf("log entry of %d bytes is cut short", len(b))
	}
	if b[0] != entryFormat {
		return nil, fmt.Errorf("log entry of format %d, of which this program knows %d: %w", b[0], entryFormat, errUnknownVersion)
	}
	want := binary.BigEndian.Uint32(b[1:])
	b = b[entryHeader:]
	if got := crc32.Checksum(b, castagnoli); got != want {
		return nil, fmt.Errorf("log entry is damaged: checksum %08x, expected %08x", got, want)
	}
	return b, nil
}

func decodeEntry(b []byte, knows uint8) ([]command, error) {
	b, err := entryBody(b)
	if err != nil {
		return nil, err
	}
	var commands []command
	for len(b) > 0 {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			return nil, errors.New("log entry is damaged: a command reaches beyond its end")
		}
		c, err := decodeCommand(b[w:w+int(n)], knows)
		if err != nil {
			return nil, err
		}
		commands = append(commands, c)
		b = b[w+int(n):]
	}
	return commands, nil
}
