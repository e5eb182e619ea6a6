package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

// archive is a foreign tar, spread out in a stage: every member is a blob named
// by what it really hashes to, so nothing the archive says about itself is believed.
type archive struct {
	files map[string]member // by cleaned path
	links map[string]string // path → path, docker's way to share layers
}

type member struct {
	Hash v1.Hash
	Size int64
}

const maxMembers = 100_000

// readArchive stages all members of a tar, compressed or not.
func (s *Store) readArchive(ctx context.Context, st *stage, r io.Reader) (*archive, error) {
	plain, closePlain, err := decompress(r)
	if err != nil {
		return nil, err
	}
	defer closePlain()
	a := &archive{files: map[string]member{}, links: map[string]string{}}
	tr := tar.NewReader(plain)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: read archive: %v", ErrCorrupt, err)
		}
		if n >= maxMembers {
			return nil, fmt.Errorf("%w: archive has more than %d members", ErrTooLarge, maxMembers)
		}
		name := path.Clean("/" + hdr.Name)[1:]
		switch hdr.Typeflag {
		case tar.TypeReg:
			var want v1.Hash
			if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
				want = v1.Hash{Algorithm: "sha256", Hex: hex}
				if err := checkHash(want); err != nil {
					return nil, err
				}
			}
			h, size, err := st.writeBlob(tr, want, s.limits.BlobBytes)
			if err != nil {
				return nil, fmt.Errorf("archive member %s: %w", name, truncated(err))
			}
			a.files[name] = member{h, size}
		case tar.TypeSymlink:
			a.links[name] = path.Clean("/" + path.Join(path.Dir(name), hdr.Linkname))[1:]
		case tar.TypeLink:
			a.links[name] = path.Clean("/" + hdr.Linkname)[1:]
		}
	}
}

func truncated(err error) error {
	if err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: archive is truncated", ErrCorrupt)
	}
	return err
}

func (a *archive) find(name string) (member, bool) {
	name = path.Clean("/" + name)[1:]
	for range 8 {
		if m, ok := a.files[name]; ok {
			return m, true
		}
		next, ok := a.links[name]
		if !ok {
			break
		}
		name = next
	}
	return member{}, false
}

// decompress looks at the first bytes and undoes gzip or zstd.
func decompress(r io.Reader) (plain io.Reader, done func(), err error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		gz, err := gzip.NewReader(br)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: gzip: %v", ErrCorrupt, err)
		}
		return gz, func() { _ = gz.Close() }, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		// The window is bounded: a frame header may ask for gigabytes of memory.
		zr, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, fmt.Errorf("%w: zstd: %v", ErrCorrupt, err)
		}
		return zr, zr.Close, nil
	}
	return br, func() {}, nil
}
