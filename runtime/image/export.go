package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Export writes images as one archive, which is both an OCI layout and what
// docker save writes: Load and other tools read it.
func (s *Store) Export(ctx context.Context, w io.Writer, refs ...string) error {
	if len(refs) == 0 {
		return errors.New("name the images to export")
	}
	idx := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	var docker []dockerManifest
	var blobs []v1.Descriptor
	for _, ref := range refs {
		img, err := s.Resolve(ref)
		if err != nil {
			return err
		}
		d := v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: img.Digest, Annotations: map[string]string{annotationRef: img.Ref, annotationContainerd: img.Ref}}
		if img.manifest.MediaType != "" {
			d.MediaType = img.manifest.MediaType
		}
		fi, err := os.Stat(s.blobPath(img.Digest))
		if err != nil {
			return err
		}
		d.Size = fi.Size()
		idx.Manifests = append(idx.Manifests, d)
		entry := dockerManifest{Config: blobName(img.manifest.Config.Digest)}
		if !strings.Contains(img.Ref, "@") {
			entry.RepoTags = []string{img.Ref} // docker has no name for a digest
		}
		for _, l := range img.manifest.Layers {
			entry.Layers = append(entry.Layers, blobName(l.Digest))
		}
		docker = append(docker, entry)
		blobs = append(append(blobs, d, img.manifest.Config), img.manifest.Layers...)
	}
	tw := tar.NewWriter(w)
	for _, small := range []struct {
		name string
		body any
	}{{"oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}}, {"index.json", idx}, {"manifest.json", docker}} {
		b, err := json.Marshal(small.body)
		if err == nil {
			err = tw.WriteHeader(&tar.Header{Name: small.name, Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg})
		}
		if err == nil {
			_, err = tw.Write(b)
		}
		if err != nil {
			return err
		}
	}
	done := map[v1.Hash]bool{}
	for _, b := range blobs {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if done[b.Digest] {
			continue
		}
		done[b.Digest] = true
		if err := s.exportBlob(tw, b); err != nil {
			return fmt.Errorf("export %s: %w", strings.Join(refs, ", "), err)
		}
	}
	return tw.Close()
}

func blobName(h v1.Hash) string { return "blobs/sha256/" + h.Hex }
