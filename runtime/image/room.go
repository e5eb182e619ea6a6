package image

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// How much an image takes unpacked is known when it is unpacked: what it says of itself may be a lie, and a bomb of
// a few kilobytes fills any disk. So whoever writes into the store asks the disk now and then, and the image is
// refused while there is something left for the pods that run and for the node's own state.

// What images leave free: a twentieth of the disk, at most so much.
const (
	reserveShare  = 20
	reserveBytes  = 1 << 30
	reserveInodes = 100_000
)

const (
	// lookAfter is how much is written between two looks, less where less is left.
	lookAfter = 1 << 20
	// entryBytes is what an entry of a layer counts for, whatever it holds: it takes an inode, and often a block.
	entryBytes = 4 << 10
)

// space is what a file system has and has left.
type space struct {
	bytes, freeBytes   uint64
	inodes, freeInodes uint64 // both 0: it makes them as they are needed
}

func spaceOf(dir string) (space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return space{}, fmt.Errorf("ask for the room in %s: %w", dir, err)
	}
	size := uint64(st.Bsize)
	return space{bytes: st.Blocks * size, freeBytes: st.Bavail * size, inodes: st.Files, freeInodes: st.Ffree}, nil
}

// beyond is how many bytes and inodes there are beside the reserve once so many bytes more are written; an error
// if that is less than none.
func (s space) beyond(more int64) (bytes, inodes int64, err error) {
	keep := min(s.bytes/reserveShare, reserveBytes)
	if bytes = int64(s.freeBytes) - int64(keep) - max(more, 0); bytes < 0 {
		return 0, 0, fmt.Errorf("%w: the disk has %d bytes left, and %d are kept for others", ErrNoRoom, s.freeBytes, keep)
	}
	if s.inodes == 0 {
		return bytes, math.MaxInt32, nil
	}
	keep = min(s.inodes/reserveShare, reserveInodes)
	if inodes = int64(s.freeInodes) - int64(keep); inodes < 0 {
		return 0, 0, fmt.Errorf("%w: the disk has %d inodes left, and %d are kept for others", ErrNoRoom, s.freeInodes, keep)
	}
	return bytes, inodes, nil
}

// roomFor says whether so many bytes more fit on the disk, and how many after them can be written before the next look.
func (st *stage) roomFor(more int64) (then int64, err error) {
	s, err := spaceOf(st.dir)
	if err != nil {
		return 0, err
	}
	bytes, inodes, err := s.beyond(more)
	return min(lookAfter, bytes, inodes*entryBytes), err
}

// take counts what is about to be written into the stage, by any number of goroutines.
func (st *stage) take(bytes int64) error {
	if st.granted.Add(-bytes) >= 0 {
		return nil
	}
	then, err := st.roomFor(bytes)
	st.granted.Store(then)
	return err
}

// meter is a writer to nowhere that counts; before a file in an io.MultiWriter it keeps what does not fit from it.
type meter struct{ st *stage }

func (m meter) Write(b []byte) (int, error) { return len(b), m.st.take(int64(len(b))) }
