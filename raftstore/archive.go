package raftstore

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"time"
)

// An archive is a file that holds all of a cluster's state at one revision:
//
//	"kontiki archive\n"
//	length (4 bytes) | description (JSON) | CRC-32C of it (4 bytes)
//	{ length (4 bytes) | piece of a snapshot }… | 0 (4 bytes)
//	SHA-256 of all of that (32 bytes)
//
// Numbers are big-endian. The snapshot has a sum of its contents of its own, which is
// made of what was written to the store, not of what was read for the archive.
const (
	archiveMagic  = "kontiki archive\n"
	archiveFormat = 1
	archivePiece  = 256 << 10
	archiveMax    = 1 << 20 // bytes of a description
)

// ArchiveInfo describes an archive. WriteArchive fills the fields that tell of the state.
type ArchiveInfo struct {
	Format    int       `json:"format"`
	ClusterID string    `json:"clusterID"`
	Epoch     Epoch     `json:"epoch,omitempty"`
	NodeID    string    `json:"nodeID"` // who wrote it
	Taken     time.Time `json:"taken"`
	Version   string    `json:"version,omitempty"` // of the program
	// KeyID names the key that opens what is sealed in the state; this package does not
	// know it.
	KeyID string `json:"keyID,omitempty"`

	Revision uint64 `json:"revision"`
	Index    uint64 `json:"index"` // of the log
	Term     uint64 `json:"term"`
	Keys     int    `json:"keys"`
}

// Errors of ReadArchive.
var (
	ErrNoArchive      = errors.New("this is no snapshot of a kontiki cluster")
	ErrArchiveDamaged = errors.New("the snapshot is damaged")
	ErrArchiveFormat  = errors.New("the snapshot was written by a newer program: use that one")
)

// WriteArchive writes the state that this replica shows now; info says who asks.
func (s *Store) WriteArchive(w io.Writer, info ArchiveInfo) (ArchiveInfo, error) {
	if err := s.err(); err != nil {
		return info, err
	}
	info.ClusterID, info.Epoch, info.NodeID = s.cfg.ClusterID, s.cfg.Epoch, s.cfg.NodeID
	info, err := writeArchive(w, s.fsm.current.Load(), info)
	if errors.Is(err, errContents) {
		s.fsm.distrust(err)
	}
	return info, err
}

func writeArchive(w io.Writer, st *state, info ArchiveInfo) (ArchiveInfo, error) {
	info.Format, info.Revision, info.Index, info.Term, info.Keys = archiveFormat, st.revision, st.index, st.term, st.keys.Len()
	description, err := json.Marshal(info)
	if err != nil {
		return info, err
	}
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	head := append([]byte(archiveMagic), frame(description)...)
	head = binary.BigEndian.AppendUint32(head, crc32.Checksum(description, castagnoli))
	if _, err := out.Write(head); err != nil {
		return info, err
	}
	pieces := bufio.NewWriterSize(pieceWriter{out}, archivePiece)
	if err := writeSnapshot(pieces, st); err != nil {
		return info, err
	}
	if err := pieces.Flush(); err != nil {
		return info, err
	}
	if _, err := out.Write(frame(nil)); err != nil {
		return info, err
	}
	_, err = w.Write(sum.Sum(nil))
	return info, err
}

func frame(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...)
}

// pieceWriter puts the length before each write, none of which is empty.
type pieceWriter struct{ w io.Writer }

func (p pieceWriter) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if _, err := p.w.Write(frame(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Archive is an archive that was read and found whole.
type Archive struct {
	ArchiveInfo
	Replica
}

// ReadArchive reads all of an archive and checks it.
func ReadArchive(r io.Reader) (*Archive, error) {
	in := &archiveReader{r: bufio.NewReaderSize(r, archivePiece), sum: sha256.New()}
	info, err := in.description()
	if err != nil {
		return nil, err
	}
	st, err := readSnapshot(in)
	if err == nil && st.gate > CommandVersion {
		err = tooOld(st.gate, CommandVersion)
	}
	if err != nil && !errors.Is(err, errUnknownVersion) {
		return nil, fmt.Errorf("%w: %w", ErrArchiveDamaged, err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // to the end of the pieces
		return nil, fmt.Errorf("%w: %w", ErrArchiveDamaged, err)
	}
	if err := in.end(); err != nil {
		return nil, err
	}
	if err != nil { // it is whole, and not for this program
		return nil, fmt.Errorf("%w (%w)", ErrArchiveFormat, err)
	}
	if st.revision != info.Revision || st.index != info.Index || st.keys.Len() != info.Keys {
		return nil, fmt.Errorf("%w: it is of revision %d with %d keys, and says %d with %d", ErrArchiveDamaged, st.revision, st.keys.Len(), info.Revision, info.Keys)
	}
	return &Archive{info, Replica{st}}, nil
}

// archiveReader yields the snapshot in an archive, and sums up all that it reads.
type archiveReader struct {
	r    *bufio.Reader
	sum  hash.Hash
	left uint32 // of the present piece
	done bool
}

func (a *archiveReader) full(b []byte) error {
	if _, err := io.ReadFull(a.r, b); err != nil {
		return fmt.Errorf("it is cut short: %w", err)
	}
	a.sum.Write(b)
	return nil
}

func (a *archiveReader) length() (uint32, error) {
	var b [4]byte
	err := a.full(b[:])
	return binary.BigEndian.Uint32(b[:]), err
}

func (a *archiveReader) description() (info ArchiveInfo, err error) {
	magic := make([]byte, len(archiveMagic))
	if err := a.full(magic); err != nil || string(magic) != archiveMagic {
		return info, ErrNoArchive
	}
	n, err := a.length()
	if err != nil || n > archiveMax {
		return info, fmt.Errorf("%w: its description is not readable", ErrArchiveDamaged)
	}
	b := make([]byte, n)
	if err := a.full(b); err != nil {
		return info, fmt.Errorf("%w: %w", ErrArchiveDamaged, err)
	}
	if sum, err := a.length(); err != nil || sum != crc32.Checksum(b, castagnoli) {
		return info, fmt.Errorf("%w: the checksum of its description is wrong", ErrArchiveDamaged)
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return info, fmt.Errorf("%w: its description: %w", ErrArchiveDamaged, err)
	}
	if info.Format > archiveFormat {
		return info, fmt.Errorf("%w: it has format %d, this program knows %d", ErrArchiveFormat, info.Format, archiveFormat)
	}
	return info, info.Epoch.Valid()
}

func (a *archiveReader) Read(b []byte) (int, error) {
	if a.left == 0 && !a.done {
		n, err := a.length()
		if err != nil {
			return 0, err
		}
		a.left, a.done = n, n == 0
	}
	if a.done {
		return 0, io.EOF
	}
	n, err := a.r.Read(b[:min(len(b), int(a.left))])
	a.sum.Write(b[:n])
	a.left -= uint32(n)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("it is cut short: %w", io.ErrUnexpectedEOF)
	}
	return n, err
}

// end checks what follows the pieces.
func (a *archiveReader) end() error {
	want := a.sum.Sum(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(a.r, got); err != nil {
		return fmt.Errorf("%w: it is cut short: %w", ErrArchiveDamaged, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: its checksum is wrong", ErrArchiveDamaged)
	}
	if _, err := a.r.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows its end", ErrArchiveDamaged)
	}
	return nil
}
