package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// Import makes a one-layer image out of a root folder and names it ref. Owners,
// modes, times, links and file capabilities are kept; sockets are left out.
func (s *Store) Import(ctx context.Context, dir, ref string, config v1.Config) (Image, error) {
	st, err := s.newStage()
	if err != nil {
		return Image{}, err
	}
	defer st.close()
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(writeTree(ctx, pw, dir)) }()
	layer, size, err := st.writeBlob(pr, v1.Hash{}, s.limits.BlobBytes)
	_ = pr.CloseWithError(errors.New("image: import given up"))
	if err != nil {
		return Image{}, fmt.Errorf("import %s: %w", dir, err)
	}
	cf := v1.ConfigFile{
		OS: s.platform.OS, Architecture: s.platform.Architecture, Created: v1.Time{Time: time.Unix(0, 0).UTC()}, Config: config,
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{layer}},
		History: []v1.History{{CreatedBy: "kontiki image import"}},
	}
	b, err := json.Marshal(cf)
	if err != nil {
		return Image{}, err
	}
	ch, csize, err := st.writeBlob(strings.NewReader(string(b)), v1.Hash{}, s.limits.MetadataBytes)
	if err != nil {
		return Image{}, err
	}
	f, err := st.manifest(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: ch, Size: csize},
		Layers: []v1.Descriptor{{MediaType: types.OCIUncompressedLayer, Digest: layer, Size: size}}})
	if err != nil {
		return Image{}, err
	}
	f.refs = []string{ref}
	images, err := s.adopt(ctx, st, []found{f})
	if err != nil {
		return Image{}, err
	}
	return images[0], nil
}

// writeTree writes a folder as a layer, in lexical order, so that equal folders
// give equal layers.
func writeTree(ctx context.Context, w io.Writer, dir string) error {
	tw := tar.NewWriter(w)
	links := map[[2]uint64]string{} // device, inode → first name
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		return writeNode(tw, p, rel, links)
	})
	return errors.Join(err, tw.Close())
}

func writeNode(tw *tar.Writer, p, rel string, links map[[2]uint64]string) error {
	fi, err := os.Lstat(p)
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeSocket != 0 || fi.Mode()&fs.ModeDevice != 0 {
		return nil // neither means anything in an image: /dev is the container's own
	}
	target := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(p); err != nil {
			return err
		}
	}
	hdr, err := tar.FileInfoHeader(fi, target)
	if err != nil {
		return err
	}
	hdr.Name, hdr.Format = filepath.ToSlash(rel), tar.FormatPAX
	if fi.IsDir() {
		hdr.Name += "/"
	}
	hdr.Uname, hdr.Gname, hdr.AccessTime, hdr.ChangeTime = "", "", time.Time{}, time.Time{}
	hdr.ModTime = hdr.ModTime.Truncate(time.Second)
	var raw unix.Stat_t
	if err := unix.Lstat(p, &raw); err != nil {
		return err
	}
	if fi.Mode().IsRegular() && raw.Nlink > 1 {
		key := [2]uint64{uint64(raw.Dev), raw.Ino}
		if first, ok := links[key]; ok {
			hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, first, 0
			return tw.WriteHeader(hdr)
		}
		links[key] = hdr.Name
	}
	if fi.Mode().IsRegular() {
		var caps [256]byte
		if n, err := unix.Lgetxattr(p, "security.capability", caps[:]); err == nil {
			hdr.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(caps[:n])}
		}
	}
	if err := tw.WriteHeader(hdr); err != nil || !fi.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return errors.Join(err, f.Close())
}

func (s *Store) exportBlob(tw *tar.Writer, d v1.Descriptor) error {
	f, err := os.Open(s.blobPath(d.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := tw.WriteHeader(&tar.Header{Name: "blobs/sha256/" + d.Digest.Hex, Mode: 0o644, Size: d.Size, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}
