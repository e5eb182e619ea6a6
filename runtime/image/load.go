package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// found is an image inside a stage, ready to be adopted.
type found struct {
	refs       []string
	manifest   v1.Manifest
	descriptor v1.Descriptor
	repoDigest string
}

// LoadFile is Load from a path.
func (s *Store) LoadFile(ctx context.Context, path, ref string) ([]Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	images, err := s.Load(ctx, f, ref)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	return images, nil
}

// Load takes the images of an OCI layout or docker archive, compressed or not.
// ref names the image when it is not empty, whatever the archive calls it; then
// the archive must hold exactly one. All of them are loaded, or none.
func (s *Store) Load(ctx context.Context, r io.Reader, ref string) ([]Image, error) {
	st, err := s.newStage()
	if err != nil {
		return nil, err
	}
	defer st.close()
	a, err := s.readArchive(ctx, st, r)
	if err != nil {
		return nil, err
	}
	var images []found
	if idx, ok := a.find("index.json"); ok {
		images, err = s.findOCI(st, idx)
	}
	if err == nil && named(images) == 0 && ref == "" || len(images) == 0 {
		if m, ok := a.find("manifest.json"); ok {
			images, err = s.findDocker(st, a, m)
		}
	}
	if err != nil {
		return nil, err
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("%w: neither an OCI layout (index.json) nor a docker archive (manifest.json)", ErrCorrupt)
	}
	if ref != "" {
		if len(images) != 1 {
			return nil, fmt.Errorf("the archive holds %d images, so they cannot all be named %s: leave the name out", len(images), ref)
		}
		images[0].refs = []string{ref}
	}
	return s.adopt(ctx, st, images)
}

func named(images []found) (n int) {
	for _, f := range images {
		n += len(f.refs)
	}
	return n
}

// adopt moves found images into the store and names them.
func (s *Store) adopt(ctx context.Context, st *stage, images []found) ([]Image, error) {
	for i := range images {
		for j, ref := range images[i].refs {
			full, err := Normalize(ref)
			if err != nil {
				return nil, err
			}
			images[i].refs[j] = full
		}
		if len(images[i].refs) == 0 {
			return nil, fmt.Errorf("the archive does not name image %s: give a name", images[i].descriptor.Digest)
		}
		if err := s.checkConfig(st, images[i].manifest); err != nil {
			return nil, err
		}
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, f := range images {
		for _, d := range append([]v1.Descriptor{f.descriptor, f.manifest.Config}, f.manifest.Layers...) {
			if err := s.adoptLocked(st, d); err != nil {
				return nil, err
			}
		}
	}
	if err := syncDir(s.path("blobs", "sha256")); err != nil {
		return nil, err
	}
	var out []Image
	for _, f := range images {
		s.touch(f.descriptor.Digest)
		for _, ref := range f.refs {
			if err := s.tagLocked(ref, f.descriptor, f.repoDigest); err != nil {
				return nil, err
			}
			img, err := s.Resolve(ref)
			if err != nil {
				return nil, err
			}
			out = append(out, img)
		}
	}
	idx, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	return out, s.sweepLocked(idx) // a name that moved on may have left blobs behind
}

// checkConfig refuses a manifest whose config tells of other layers or another machine.
func (s *Store) checkConfig(st *stage, m v1.Manifest) error {
	var c v1.ConfigFile
	if err := s.readStaged(st, m.Config.Digest, &c); err != nil {
		return fmt.Errorf("image config: %w", err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return fmt.Errorf("%w: config lists %d layers, manifest %d", ErrCorrupt, len(c.RootFS.DiffIDs), len(m.Layers))
	}
	for _, h := range c.RootFS.DiffIDs {
		if err := checkHash(h); err != nil {
			return err
		}
	}
	if c.OS != "" && c.OS != s.platform.OS || c.Architecture != "" && c.Architecture != s.platform.Architecture {
		return fmt.Errorf("%w: it is for %s/%s, this is %s", ErrNoPlatform, c.OS, c.Architecture, s.platform.String())
	}
	return nil
}

// readStaged reads from the stage, or from the store what it already had.
func (s *Store) readStaged(st *stage, h v1.Hash, into any) error {
	if err := checkHash(h); err != nil {
		return err
	}
	err := readJSONFile(st.blob(h), h, s.limits.MetadataBytes, into)
	if os.IsNotExist(err) {
		if err = s.readJSON(h, into); os.IsNotExist(err) {
			return fmt.Errorf("%w: blob %s is missing", ErrCorrupt, h)
		}
	}
	return err
}

func (s *Store) findOCI(st *stage, index member) ([]found, error) {
	var idx v1.IndexManifest
	if err := s.readStaged(st, index.Hash, &idx); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	var images []found
	for _, d := range idx.Manifests {
		if d.Platform != nil && d.Platform.OS == "unknown" {
			continue // an attestation
		}
		f, err := s.pick(st, d, 0)
		if err != nil {
			return nil, err
		}
		for _, k := range []string{annotationContainerd, annotationRef} {
			if name := d.Annotations[k]; name != "" {
				f.refs = []string{name}
				break
			}
		}
		images = append(images, f)
	}
	return images, nil
}

// pick follows indexes to the manifest for this machine.
func (s *Store) pick(st *stage, d v1.Descriptor, depth int) (found, error) {
	if depth > 4 {
		return found{}, fmt.Errorf("%w: indexes nested more than 4 deep", ErrRefused)
	}
	if d.MediaType.IsIndex() {
		var idx v1.IndexManifest
		if err := s.readStaged(st, d.Digest, &idx); err != nil {
			return found{}, err
		}
		child, err := s.choose(idx)
		if err != nil {
			return found{}, err
		}
		return s.pick(st, child, depth+1)
	}
	f := found{descriptor: v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}}
	if err := s.readStaged(st, d.Digest, &f.manifest); err != nil {
		return f, err
	}
	if f.descriptor.MediaType == "" {
		f.descriptor.MediaType = types.OCIManifestSchema1
	}
	return f, nil
}

func (s *Store) choose(idx v1.IndexManifest) (v1.Descriptor, error) {
	var have []string
	for _, d := range idx.Manifests {
		if d.Platform == nil {
			if len(idx.Manifests) == 1 {
				return d, nil
			}
			continue
		}
		if d.Platform.OS == s.platform.OS && d.Platform.Architecture == s.platform.Architecture {
			return d, nil
		}
		have = append(have, d.Platform.OS+"/"+d.Platform.Architecture)
	}
	return v1.Descriptor{}, fmt.Errorf("%w: it has %s, this is %s", ErrNoPlatform, strings.Join(have, ", "), s.platform.String())
}

// dockerManifest is an entry of docker save's manifest.json.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (s *Store) findDocker(st *stage, a *archive, m member) ([]found, error) {
	var entries []dockerManifest
	if err := s.readStaged(st, m.Hash, &entries); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	var images []found
	for _, e := range entries {
		f, err := s.dockerImage(st, a, e)
		if err != nil {
			return nil, err
		}
		images = append(images, f)
	}
	return images, nil
}

// dockerImage writes the OCI manifest that docker's archive lacks.
func (s *Store) dockerImage(st *stage, a *archive, e dockerManifest) (found, error) {
	config, ok := a.find(e.Config)
	if !ok {
		return found{}, fmt.Errorf("%w: config %s is missing", ErrCorrupt, e.Config)
	}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: config.Hash, Size: config.Size}}
	for _, name := range e.Layers {
		l, ok := a.find(name)
		if !ok {
			return found{}, fmt.Errorf("%w: layer %s is missing", ErrCorrupt, name)
		}
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: types.OCIUncompressedLayer, Digest: l.Hash, Size: l.Size})
	}
	f, err := st.manifest(m)
	f.refs = e.RepoTags
	return f, err
}

// manifest stages a manifest of our own making.
func (st *stage) manifest(m v1.Manifest) (found, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return found{}, err
	}
	h, size, err := st.writeBlob(strings.NewReader(string(b)), v1.Hash{}, int64(len(b)))
	if err != nil {
		return found{}, err
	}
	return found{manifest: m, descriptor: v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: h, Size: size}}, nil
}
