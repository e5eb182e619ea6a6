package image

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// When an image was used last is the time of its manifest's file: it is set
// when the image comes and whenever a container begins to stand on it.

func (s *Store) touch(manifest v1.Hash) {
	now := time.Now()
	_ = os.Chtimes(s.blobPath(manifest), now, now) // a guess for the collector, no more
}

// Unused is an image that no container stands on.
type Unused struct {
	Digest v1.Hash
	Refs   []string // all its names
	Size   int64    // bytes of its blobs
	Since  time.Time
}

// ListUnused returns them, the longest unused first.
func (s *Store) ListUnused() ([]Unused, error) {
	images, err := s.List()
	if err != nil {
		return nil, err
	}
	stacks, err := s.usedStacks()
	if err != nil {
		return nil, err
	}
	byDigest := map[v1.Hash]*Unused{}
	for _, img := range images {
		if stacks[stackOf(img)] {
			continue
		}
		u := byDigest[img.Digest]
		if u == nil {
			fi, err := os.Stat(s.blobPath(img.Digest))
			if err != nil {
				continue // removed meanwhile
			}
			u = &Unused{Digest: img.Digest, Size: img.Size, Since: fi.ModTime()}
			byDigest[img.Digest] = u
		}
		u.Refs = append(u.Refs, img.Ref)
	}
	var list []Unused
	for _, u := range byDigest {
		list = append(list, *u)
	}
	slices.SortFunc(list, func(a, b Unused) int { return a.Since.Compare(b.Since) })
	return list, nil
}

// stackOf names an image by its layers: this is what a use records.
func stackOf(img Image) string {
	var b strings.Builder
	for _, diff := range img.Config.RootFS.DiffIDs {
		b.WriteString(diff.Hex + "\n")
	}
	return b.String()
}

func (s *Store) usedStacks() (map[string]bool, error) {
	entries, err := os.ReadDir(s.path("uses"))
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, e := range entries {
		b, err := os.ReadFile(s.path("uses", e.Name()))
		if err != nil {
			if os.IsNotExist(err) {
				continue
			}
			return nil, err
		}
		used[string(b)] = true
	}
	return used, nil
}

// RemoveAll removes all names of an image.
func (s *Store) RemoveAll(ctx context.Context, u Unused) error {
	for _, ref := range u.Refs {
		if err := s.Remove(ctx, ref); err != nil {
			return err
		}
	}
	return nil
}

// Stamp changes whenever an image comes, goes or is named anew.
func (s *Store) Stamp() time.Time {
	fi, err := os.Stat(s.path("index.json"))
	if err != nil {
		return time.Time{}
	}
	return fi.ModTime()
}
