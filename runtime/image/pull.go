package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"
)

// layersAtOnce is how many layers of an image travel at a time.
const layersAtOnce = 3

// Progress is told how many bytes of layers have come, of how many that were
// missing. It is called often and from several goroutines.
type Progress func(done, total int64)

// Every tells of a pull that takes long: once in a time that now counts, and not of its beginning or end.
func (tell Progress) Every(d time.Duration, now func() time.Time) Progress {
	var mu sync.Mutex // protects next
	next := now().Add(d)
	return func(done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		if at := now(); done < total && !at.Before(next) {
			next = at.Add(d)
			tell(done, total)
		}
	}
}

// Pull fetches an image, from a mirror or from its registry, names it ref and
// unpacks it. auth and progress may be nil. An image that is refused leaves nothing behind.
func (s *Store) Pull(ctx context.Context, ref string, auth authn.Authenticator, progress Progress) (Image, error) {
	parsed, err := parse(ref)
	if err != nil {
		return Image{}, err
	}
	full, err := Normalize(ref)
	if err != nil {
		return Image{}, err
	}
	from, err := s.Registries.sources(parsed, auth)
	if err != nil {
		return Image{}, fmt.Errorf("failed to pull image %q: %w", ref, err)
	}
	var passed []string // what mirrors had to say
	for _, src := range from {
		var img Image
		img, err = s.pullFrom(ctx, src, full, repositoryName(parsed.Context()), progress)
		src.close()
		if err == nil || ctx.Err() != nil || refused(err) {
			break
		}
		if src.mirror {
			passed = append(passed, fmt.Sprintf("mirror %s: %v", src.ref.Context().RegistryStr(), err))
		}
		_ = img
	}
	if err != nil {
		if len(passed) > 0 {
			err = fmt.Errorf("%w (%s)", err, strings.Join(passed, "; "))
		}
		return Image{}, fmt.Errorf("failed to pull image %q: %w", ref, err)
	}
	img, err := s.Resolve(ref)
	if err != nil {
		return Image{}, err
	}
	return img, s.unpackOrForget(ctx, img)
}

// refused: no other place would have a better one.
func refused(err error) bool {
	return errors.Is(err, ErrRefused) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNoRoom)
}

// unpackOrForget unpacks an image that has just come. What is wrong with it is
// found here; then it is not kept.
func (s *Store) unpackOrForget(ctx context.Context, img Image) error {
	err := s.Unpack(ctx, img)
	if errors.Is(err, ErrCorrupt) || refused(err) {
		return errors.Join(err, s.Remove(context.WithoutCancel(ctx), img.Ref))
	}
	return err
}

// pullFrom fetches from one place.
func (s *Store) pullFrom(ctx context.Context, src source, full, repository string, progress Progress) (Image, error) {
	desc, err := remote.Get(src.ref, append(src.options, remote.WithContext(ctx), remote.WithPlatform(s.platform))...)
	if err != nil {
		return Image{}, err
	}
	if _, ok := src.ref.(name.Digest); ok && !strings.HasSuffix(full, desc.Digest.String()) {
		return Image{}, fmt.Errorf("%w: registry answered %s for %s", ErrCorrupt, desc.Digest, full)
	}
	img, err := desc.Image() // picks the platform out of an index
	if err != nil {
		return Image{}, err
	}
	st, err := s.newStage()
	if err != nil {
		return Image{}, err
	}
	defer st.close()
	f, err := s.fetch(ctx, st, img, progress)
	if err != nil {
		return Image{}, err
	}
	f.refs, f.repoDigest = []string{full}, repository+"@"+desc.Digest.String()
	images, err := s.adopt(ctx, st, []found{f})
	if err != nil {
		return Image{}, err
	}
	return images[0], nil
}

// fetch stages manifest, config and those layers that the store lacks.
func (s *Store) fetch(ctx context.Context, st *stage, img v1.Image, progress Progress) (found, error) {
	raw, err := img.RawManifest()
	if err != nil {
		return found{}, err
	}
	h, size, err := st.writeBlob(strings.NewReader(string(raw)), v1.Hash{}, s.limits.MetadataBytes)
	if err != nil {
		return found{}, err
	}
	m, err := img.Manifest()
	if err != nil {
		return found{}, err
	}
	if m.Config.Size > s.limits.MetadataBytes {
		return found{}, fmt.Errorf("%w: config %s has %d bytes", ErrTooLarge, m.Config.Digest, m.Config.Size)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return found{}, err
	}
	if _, _, err := st.writeBlob(strings.NewReader(string(config)), m.Config.Digest, s.limits.MetadataBytes); err != nil {
		return found{}, err
	}
	if err := s.fetchLayers(ctx, st, img, m, progress); err != nil {
		return found{}, err
	}
	mt, err := img.MediaType()
	if err != nil {
		return found{}, err
	}
	return found{manifest: *m, descriptor: v1.Descriptor{MediaType: mt, Digest: h, Size: size}}, nil
}

func (s *Store) fetchLayers(ctx context.Context, st *stage, img v1.Image, m *v1.Manifest, progress Progress) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	var missing []int
	var total int64
	staged := map[v1.Hash]bool{}
	for i, d := range m.Layers {
		if d.Size > s.limits.BlobBytes {
			return fmt.Errorf("%w: layer %s has %d bytes", ErrTooLarge, d.Digest, d.Size)
		}
		if !staged[d.Digest] && s.linkPresent(st, d) != nil {
			missing, total = append(missing, i), total+d.Size
		}
		staged[d.Digest] = true // an image may name a layer twice
	}
	if _, err := st.roomFor(total); err != nil {
		return err
	}
	var done atomic.Int64
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(layersAtOnce)
	for _, i := range missing {
		work.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return s.fetchLayer(st, layers[i], m.Layers[i], func(n int) {
				if sum := done.Add(int64(n)); progress != nil {
					progress(sum, total)
				}
			})
		})
	}
	return work.Wait()
}

func (s *Store) fetchLayer(st *stage, l v1.Layer, d v1.Descriptor, came func(n int)) error {
	r, err := l.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	_, _, err = st.writeBlob(counted{io.LimitReader(r, d.Size+1), came}, d.Digest, d.Size)
	return err
}

// counted tells of what is read.
type counted struct {
	io.Reader
	came func(n int)
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.came(n)
	return n, err
}
