package image

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Pull fetches an image from its registry and names it ref. auth may be nil.
func (s *Store) Pull(ctx context.Context, ref string, auth authn.Authenticator) (Image, error) {
	parsed, err := parse(ref)
	if err != nil {
		return Image{}, err
	}
	if auth == nil {
		auth = authn.Anonymous
	}
	opts := []remote.Option{remote.WithContext(ctx), remote.WithAuth(auth), remote.WithPlatform(s.platform)}
	desc, err := remote.Get(parsed, opts...)
	if err != nil {
		return Image{}, fmt.Errorf("failed to pull image %q: %w", ref, err)
	}
	img, err := desc.Image() // picks the platform out of an index
	if err != nil {
		return Image{}, fmt.Errorf("failed to pull image %q: %w", ref, err)
	}
	st, err := s.newStage()
	if err != nil {
		return Image{}, err
	}
	defer st.close()
	f, err := s.fetch(st, img)
	if err != nil {
		return Image{}, fmt.Errorf("failed to pull image %q: %w", ref, err)
	}
	full, err := Normalize(ref)
	if err != nil {
		return Image{}, err
	}
	f.refs, f.repoDigest = []string{full}, repositoryName(parsed.Context())+"@"+desc.Digest.String()
	if _, ok := parsed.(name.Digest); ok && !strings.HasSuffix(full, desc.Digest.String()) {
		return Image{}, fmt.Errorf("%w: registry answered %s for %s", ErrCorrupt, desc.Digest, full)
	}
	images, err := s.adopt(ctx, st, []found{f})
	if err != nil {
		return Image{}, fmt.Errorf("failed to pull image %q: %w", ref, err)
	}
	return images[0], nil
}

// fetch stages manifest, config and those layers that the store lacks.
func (s *Store) fetch(st *stage, img v1.Image) (found, error) {
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
	config, err := img.RawConfigFile()
	if err != nil {
		return found{}, err
	}
	if _, _, err := st.writeBlob(strings.NewReader(string(config)), m.Config.Digest, s.limits.MetadataBytes); err != nil {
		return found{}, err
	}
	layers, err := img.Layers()
	if err != nil {
		return found{}, err
	}
	for i, l := range layers {
		if err := s.fetchLayer(st, l, m.Layers[i]); err != nil {
			return found{}, err
		}
	}
	mt, err := img.MediaType()
	if err != nil {
		return found{}, err
	}
	return found{manifest: *m, descriptor: v1.Descriptor{MediaType: mt, Digest: h, Size: size}}, nil
}

func (s *Store) fetchLayer(st *stage, l v1.Layer, d v1.Descriptor) error {
	if d.Size > s.limits.BlobBytes {
		return fmt.Errorf("%w: layer %s has %d bytes", ErrTooLarge, d.Digest, d.Size)
	}
	if unlinked := s.linkPresent(st, d); unlinked == nil {
		return nil
	}
	r, err := l.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	_, _, err = st.writeBlob(io.LimitReader(r, d.Size+1), d.Digest, d.Size)
	return err
}
