// Package image keeps a node's images: an OCI layout on disk, content-addressed
// and verified, layers unpacked once each, and an overlayfs mount per container.
//
// Below the store's directory:
//
//	oci-layout, index.json   what images there are, by normalized name
//	blobs/sha256/HEX         manifests, configs and layers, as their digest says
//	layers/HEX/              an unpacked layer, by diff id, in overlayfs' own format
//	uses/ID                  the layers that a mounted container stands on
//	tmp/                     work in progress; what nobody holds a lock on is swept
//	lock                     flock around every change of the above
//
// Every change is made in tmp/, synced and renamed into place, so a crash leaves
// either the old or the new. All methods may be called from many goroutines and
// from many processes at once: the command line works on the directory of a
// running node.
//
// It imports no room and knows nothing of pods; runtime/pod and cmd import it.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// Sentinel errors; what is returned wraps them and says what was tried.
var (
	ErrNotFound    = errors.New("image not found")
	ErrInvalidName = errors.New("invalid reference format")
	ErrCorrupt     = errors.New("image is corrupt")
	ErrRefused     = errors.New("image refused")
	ErrTooLarge    = errors.New("image too large")
	ErrNoRoom      = errors.New("no room for the image")
	ErrNoPlatform  = errors.New("image has no variant for this machine")
)

const (
	annotationRef        = "org.opencontainers.image.ref.name"
	annotationContainerd = "io.containerd.image.name"
	annotationRepoDigest = "io.kontiki.image.repo-digest"
)

// Limits bound what a foreign archive or registry may make us write.
type Limits struct {
	BlobBytes     int64 // of one blob or archive member
	MetadataBytes int64 // of one manifest or config
	UnpackedBytes int64 // of one layer's file contents
	Entries       int   // of one layer
}

// DefaultLimits are generous for real images and finite for bombs.
var DefaultLimits = Limits{BlobBytes: 16 << 30, MetadataBytes: 8 << 20, UnpackedBytes: 32 << 30, Entries: 2_000_000}

// Store is an image directory. See the package comment.
type Store struct {
	// Registries says how registries are reached. It is set before the first Pull.
	Registries Registries

	dir      string
	limits   Limits
	platform v1.Platform
	log      *slog.Logger
	unpacks  keyedMutex // by diff id: one unpacking per layer and process
}

// Image is one name of one image.
type Image struct {
	Ref        string        // normalized: docker.io/library/web:latest
	Digest     v1.Hash       // of the manifest
	RepoDigest string        // NAME@sha256:… when it came from a registry
	ID         string        // digest of the config: sha256:…
	Size       int64         // bytes of its blobs
	Config     v1.ConfigFile // entrypoint, env, user, …
	manifest   v1.Manifest
}

// Open opens a store, making its directory when it is missing, and sweeps what
// dead processes left in tmp/.
func Open(dir string, log *slog.Logger) (*Store, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, limits: DefaultLimits, platform: hostPlatform(), log: log}
	for _, d := range []string{"blobs/sha256", "layers", "uses", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	if _, err := os.Stat(s.path("oci-layout")); errors.Is(err, os.ErrNotExist) {
		if err := writeFileSynced(s.path("tmp"), s.path("oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	s.sweepStages()
	return s, nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *Store) blobPath(h v1.Hash) string { return s.path("blobs", h.Algorithm, h.Hex) }

// lock takes the store's lock against every other process and goroutine.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	return s.flock(ctx, unix.LOCK_EX)
}

// share takes it against those alone who change what there is: any number may hold it so.
func (s *Store) share(ctx context.Context) (unlock func(), err error) {
	return s.flock(ctx, unix.LOCK_SH)
}

func (s *Store) flock(ctx context.Context, how int) (unlock func(), err error) {
	f, err := os.OpenFile(s.path("lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock image store: %w", err)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			_ = f.Close()
			return nil, fmt.Errorf("lock image store: %w", err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("lock image store: %w", context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

func (s *Store) readIndex() (v1.IndexManifest, error) {
	idx := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	b, err := os.ReadFile(s.path("index.json"))
	if errors.Is(err, os.ErrNotExist) {
		return idx, nil
	}
	if err != nil {
		return idx, fmt.Errorf("image store: %w", err)
	}
	if err := json.Unmarshal(b, &idx); err != nil {
		return idx, fmt.Errorf("image store: %s: %w", s.path("index.json"), err)
	}
	return idx, nil
}

func (s *Store) writeIndexLocked(idx v1.IndexManifest) error {
	b, err := json.Marshal(idx)
	if err != nil {
		return err
	}
	return writeFileSynced(s.path("tmp"), s.path("index.json"), b)
}

// tagLocked points a name at a manifest whose blobs are in place.
func (s *Store) tagLocked(ref string, d v1.Descriptor, repoDigest string) error {
	idx, err := s.readIndex()
	if err != nil {
		return err
	}
	d.Annotations = map[string]string{annotationRef: ref}
	if repoDigest != "" {
		d.Annotations[annotationRepoDigest] = repoDigest
	}
	idx.Manifests = slices.DeleteFunc(idx.Manifests, func(o v1.Descriptor) bool { return o.Annotations[annotationRef] == ref })
	idx.Manifests = append(idx.Manifests, d)
	return s.writeIndexLocked(idx)
}

// List returns all images, sorted by name.
func (s *Store) List() ([]Image, error) {
	idx, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	images := make([]Image, 0, len(idx.Manifests))
	for _, d := range idx.Manifests {
		img, err := s.imageOf(d)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed between the two reads
		}
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	slices.SortFunc(images, func(a, b Image) int { return strings.Compare(a.Ref, b.Ref) })
	return images, nil
}

func (s *Store) imageOf(d v1.Descriptor) (Image, error) {
	img := Image{Ref: d.Annotations[annotationRef], Digest: d.Digest, RepoDigest: d.Annotations[annotationRepoDigest], Size: d.Size}
	if err := s.readJSON(d.Digest, &img.manifest); err != nil {
		return img, fmt.Errorf("image %s: manifest: %w", img.Ref, err)
	}
	if err := s.readJSON(img.manifest.Config.Digest, &img.Config); err != nil {
		return img, fmt.Errorf("image %s: config: %w", img.Ref, err)
	}
	img.ID = img.manifest.Config.Digest.String()
	img.Size += img.manifest.Config.Size
	for _, l := range img.manifest.Layers {
		img.Size += l.Size
	}
	return img, nil
}

// Resolve finds an image by the name a pod spec uses for it, by NAME@DIGEST, or
// by image id (sha256:…).
func (s *Store) Resolve(ref string) (Image, error) {
	idx, err := s.readIndex()
	if err != nil {
		return Image{}, err
	}
	byID := strings.HasPrefix(ref, "sha256:")
	want := ref
	if !byID {
		if want, err = Normalize(ref); err != nil {
			return Image{}, err
		}
	}
	for _, d := range idx.Manifests {
		match := d.Annotations[annotationRef] == want || d.Annotations[annotationRepoDigest] == want
		if name, digest, ok := strings.Cut(want, "@"); ok && digest == d.Digest.String() {
			match = match || repository(d.Annotations[annotationRef]) == name
		}
		if byID {
			match = d.Digest.String() == want || s.idOf(d) == want
		}
		if match {
			return s.imageOf(d)
		}
	}
	return Image{}, fmt.Errorf("%w: %s", ErrNotFound, want)
}

func (s *Store) idOf(d v1.Descriptor) string {
	var m v1.Manifest
	if s.readJSON(d.Digest, &m) != nil {
		return ""
	}
	return m.Config.Digest.String()
}

// Remove removes a name; blobs and layers go when no other name needs them and
// no container stands on them.
func (s *Store) Remove(ctx context.Context, ref string) error {
	img, err := s.Resolve(ref)
	if err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	idx, err := s.readIndex()
	if err != nil {
		return err
	}
	idx.Manifests = slices.DeleteFunc(idx.Manifests, func(d v1.Descriptor) bool { return d.Annotations[annotationRef] == img.Ref })
	if err := s.writeIndexLocked(idx); err != nil {
		return err
	}
	return s.sweepLocked(idx)
}

// sweepLocked removes blobs and layers that nothing refers to.
func (s *Store) sweepLocked(idx v1.IndexManifest) error {
	blobs, layers := map[string]bool{}, map[string]bool{}
	for _, d := range idx.Manifests {
		img, err := s.imageOf(d)
		if err != nil {
			return fmt.Errorf("sweep images: %w", err) // never sweep on half knowledge
		}
		blobs[d.Digest.Hex], blobs[img.manifest.Config.Digest.Hex] = true, true
		for _, l := range img.manifest.Layers {
			blobs[l.Digest.Hex] = true
		}
		for _, diff := range img.Config.RootFS.DiffIDs {
			layers[diff.Hex] = true
		}
	}
	if err := s.addUsedLayers(layers); err != nil {
		return err
	}
	return errors.Join(sweepDir(s.path("blobs", "sha256"), blobs), sweepDir(s.path("layers"), layers))
}

func sweepDir(dir string, keep map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !keep[e.Name()] {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
