package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// stage is a private directory in tmp/, locked while its maker lives.
type stage struct {
	dir     string
	lock    *os.File
	granted atomic.Int64 // bytes until the next look at the disk, see room.go
}

func (s *Store) newStage() (*stage, error) {
	dir, err := os.MkdirTemp(s.path("tmp"), "stage-")
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	// A sweeper may see the directory before it is locked and remove it; then the
	// first write fails, and nothing is half done.
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("image store: lock %s: %w", dir, err)
	}
	return &stage{dir: dir, lock: f}, nil
}

func (st *stage) close() {
	_ = os.RemoveAll(st.dir)
	_ = st.lock.Close()
}

// sweepStages removes the stages of processes that died.
func (s *Store) sweepStages() {
	entries, _ := os.ReadDir(s.path("tmp"))
	for _, e := range entries {
		p := s.path("tmp", e.Name())
		f, err := os.Open(p)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(p)
		}
		_ = f.Close()
	}
}

// writeBlob copies r into a file of the stage, named by its digest. want may be
// zero when the digest is not known beforehand.
func (st *stage) writeBlob(r io.Reader, want v1.Hash, limit int64) (h v1.Hash, size int64, err error) {
	f, err := os.CreateTemp(st.dir, "blob-")
	if err != nil {
		return h, 0, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
		_ = f.Close()
	}()
	sum := sha256.New()
	if size, err = copyBounded(io.MultiWriter(meter{st}, f, sum), r, limit); err != nil {
		return h, 0, err
	}
	h = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
	if want.Hex != "" && h != want {
		return h, 0, fmt.Errorf("%w: blob %s has digest %s", ErrCorrupt, want, h)
	}
	if err = f.Sync(); err != nil {
		return h, 0, err
	}
	return h, size, os.Rename(f.Name(), filepath.Join(st.dir, h.Hex))
}

func (st *stage) blob(h v1.Hash) string { return filepath.Join(st.dir, h.Hex) }

func copyBounded(w io.Writer, r io.Reader, limit int64) (int64, error) {
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err != nil {
		return n, err
	}
	if n > limit {
		return n, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return n, nil
}

// adoptLocked moves a staged blob into the store, checked for its size.
func (s *Store) adoptLocked(st *stage, d v1.Descriptor) error {
	if err := checkHash(d.Digest); err != nil {
		return err
	}
	to := s.blobPath(d.Digest)
	if fi, err := os.Stat(to); err == nil && fi.Size() == d.Size {
		return nil
	}
	fi, err := os.Stat(st.blob(d.Digest))
	if err != nil {
		return fmt.Errorf("%w: blob %s is missing", ErrCorrupt, d.Digest)
	}
	if fi.Size() != d.Size {
		return fmt.Errorf("%w: blob %s has %d bytes, its descriptor says %d", ErrCorrupt, d.Digest, fi.Size(), d.Size)
	}
	// Copied by link: one archive may hold several images on the same blob.
	_ = os.Remove(to)
	return os.Link(st.blob(d.Digest), to)
}

// checkHash refuses what could not be a file name in blobs/sha256.
func checkHash(h v1.Hash) error {
	if _, err := hex.DecodeString(h.Hex); h.Algorithm != "sha256" || len(h.Hex) != 64 || err != nil {
		return fmt.Errorf("%w: digest %q is not a sha256", ErrCorrupt, h.String())
	}
	return nil
}

// readJSON reads and verifies a small blob.
func (s *Store) readJSON(h v1.Hash, into any) error {
	if err := checkHash(h); err != nil {
		return err
	}
	return readJSONFile(s.blobPath(h), h, s.limits.MetadataBytes, into)
}

func readJSONFile(path string, h v1.Hash, limit int64, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return err
	}
	if int64(len(b)) > limit {
		return fmt.Errorf("%w: %s has more than %d bytes", ErrTooLarge, h, limit)
	}
	if sum := sha256.Sum256(b); h.Hex != "" && hex.EncodeToString(sum[:]) != h.Hex {
		return fmt.Errorf("%w: %s does not hold what its digest says", ErrCorrupt, h)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%w: %s: %v", ErrCorrupt, h, err)
	}
	return nil
}

// writeFileSynced replaces a file so that a crash leaves the old or the new one.
func writeFileSynced(tmp, path string, b []byte) error {
	if err := replace(tmp, path, b, (*os.File).Sync); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// replaceFile does the same for those who look at it in this life of the machine.
func replaceFile(tmp, path string, b []byte) error {
	return replace(tmp, path, b, func(*os.File) error { return nil })
}

func replace(tmp, path string, b []byte, sync func(*os.File) error) error {
	f, err := os.CreateTemp(tmp, "file-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(b)
	if err = errors.Join(err, sync(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// keyedMutex is a mutex per key; entries go when nobody holds or wants them.
type keyedMutex struct {
	mu    sync.Mutex // protects locks
	locks map[string]*keyedEntry
}

type keyedEntry struct {
	mu    sync.Mutex
	users int
}

func (k *keyedMutex) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyedEntry{}
	}
	e := k.locks[key]
	if e == nil {
		e = &keyedEntry{}
		k.locks[key] = e
	}
	e.users++
	k.mu.Unlock()
	e.mu.Lock()
	return func() {
		e.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if e.users--; e.users == 0 {
			delete(k.locks, key)
		}
	}
}

// linkPresent puts a blob that the store already has into the stage, so that a
// removal by another process cannot take it away before it is adopted.
func (s *Store) linkPresent(st *stage, d v1.Descriptor) error {
	if err := checkHash(d.Digest); err != nil {
		return err
	}
	return os.Link(s.blobPath(d.Digest), st.blob(d.Digest))
}
