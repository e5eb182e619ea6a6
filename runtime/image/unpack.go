package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// Unpack makes sure that every layer of an image lies unpacked in layers/.
func (s *Store) Unpack(ctx context.Context, img Image) error {
	for i, l := range img.manifest.Layers {
		if err := s.unpackOnce(ctx, l, img.Config.RootFS.DiffIDs[i]); err != nil {
			return fmt.Errorf("unpack layer %d of %s: %w", i, img.Ref, err)
		}
	}
	return nil
}

func (s *Store) unpackOnce(ctx context.Context, l v1.Descriptor, diff v1.Hash) error {
	if err := checkHash(diff); err != nil {
		return err
	}
	defer s.unpacks.lock(diff.Hex)()
	to := s.path("layers", diff.Hex)
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	st, err := s.newStage()
	if err != nil {
		return err
	}
	defer st.close()
	tree := filepath.Join(st.dir, "tree")
	if err := s.unpackInto(ctx, st, tree, l, diff); err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(to); err == nil {
		return nil // another process was faster
	}
	if err := os.Rename(tree, to); err != nil {
		return err
	}
	return syncDir(s.path("layers"))
}

// unpackInto unpacks one blob and verifies both its digests: of the blob as it
// lies on disk, and of the tar inside.
func (s *Store) unpackInto(ctx context.Context, st *stage, tree string, l v1.Descriptor, diff v1.Hash) error {
	f, err := os.Open(s.blobPath(l.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	blobSum, tarSum := sha256.New(), sha256.New()
	raw := io.TeeReader(f, blobSum)
	plain, done, err := decompress(raw)
	if err != nil {
		return err
	}
	defer done()
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	u := &unpacker{ctx: ctx, stage: st, limits: s.limits, owner: os.Geteuid() == 0}
	whole := io.TeeReader(plain, tarSum)
	if err := u.run(tree, whole); err != nil {
		return err
	}
	// Archives end in padding that the tar reader does not ask for; it counts, but
	// a bomb in it does not: it is bounded too.
	for _, rest := range []io.Reader{whole, raw} {
		if _, err := copyBounded(io.Discard, rest, 64<<20); err != nil {
			return fmt.Errorf("after the end of the layer: %w", err)
		}
	}
	if got := hex.EncodeToString(tarSum.Sum(nil)); got != diff.Hex {
		return fmt.Errorf("%w: layer %s unpacks to sha256:%s, its config says %s", ErrCorrupt, l.Digest, got, diff)
	}
	if got := hex.EncodeToString(blobSum.Sum(nil)); got != l.Digest.Hex {
		return fmt.Errorf("%w: layer %s hashes to sha256:%s", ErrCorrupt, l.Digest, got)
	}
	d, err := os.Open(tree)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// unpacker writes one layer below a directory. All names go through os.Root, so
// neither ".." nor a symbolic link made by an earlier entry leads out of it.
type unpacker struct {
	ctx     context.Context
	stage   *stage // in which the directory lies
	limits  Limits
	owner   bool // may give files away
	root    *os.Root
	written int64
	dirs    []dirTime
}

type dirTime struct {
	name string
	when time.Time
}

func (u *unpacker) run(tree string, r io.Reader) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	u.root = root
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: layer: %v", ErrCorrupt, err)
		}
		if n >= u.limits.Entries {
			return fmt.Errorf("%w: layer has more than %d entries", ErrTooLarge, u.limits.Entries)
		}
		if err := u.stage.take(entryBytes); err != nil {
			return err
		}
		if err := u.entry(hdr, tr); err != nil {
			return fmt.Errorf("layer entry %q: %w", hdr.Name, err)
		}
	}
	for i := len(u.dirs) - 1; i >= 0; i-- {
		// A later entry may have replaced the directory; its time is no loss.
		_ = root.Chtimes(u.dirs[i].name, u.dirs[i].when, u.dirs[i].when)
	}
	return nil
}

// inside cleans an entry's name; names that climb are refused, not repaired.
func inside(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%w: path %q leaves the image", ErrRefused, name)
		}
	}
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	if clean == "" {
		return ".", nil
	}
	return clean, nil
}

func (u *unpacker) entry(hdr *tar.Header, content io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := inside(hdr.Name)
	if err != nil {
		return err
	}
	dir, base := path.Dir(name), path.Base(name)
	if name != "." {
		if err := u.root.MkdirAll(dir, 0o755); err != nil {
			return escape(err)
		}
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteout(dir, base)
	}
	isDir := hdr.Typeflag == tar.TypeDir
	if name == "." && !isDir {
		return fmt.Errorf("%w: the root of a layer must be a directory", ErrRefused)
	}
	if old, err := u.root.Lstat(name); err == nil && !(isDir && old.IsDir()) {
		if err := u.root.RemoveAll(name); err != nil {
			return err
		}
	}
	made, err := u.make(name, hdr, content)
	if err != nil || !made {
		return escape(err)
	}
	return u.attributes(name, hdr)
}

// make creates the entry itself; false: it was left out or needs no attributes.
func (u *unpacker) make(name string, hdr *tar.Header, content io.Reader) (bool, error) {
	switch hdr.Typeflag {
	case tar.TypeDir:
		if err := u.root.MkdirAll(name, 0o755); err != nil {
			return false, err
		}
		u.dirs = append(u.dirs, dirTime{name, hdr.ModTime})
		return true, nil
	case tar.TypeReg:
		return true, u.file(name, content)
	case tar.TypeSymlink:
		return true, u.root.Symlink(hdr.Linkname, name)
	case tar.TypeLink:
		target, err := inside(hdr.Linkname)
		if err != nil {
			return false, err
		}
		return false, u.root.Link(target, name) // attributes are the target's
	case tar.TypeFifo:
		return true, u.at(path.Dir(name), func(fd int) error {
			return unix.Mknodat(fd, path.Base(name), unix.S_IFIFO|0o600, 0)
		})
	case tar.TypeChar, tar.TypeBlock:
		if strings.HasPrefix(name, "dev/") {
			return false, nil // containers get a /dev of their own
		}
		return false, fmt.Errorf("%w: device node outside /dev", ErrRefused)
	}
	return false, fmt.Errorf("%w: unknown entry type %q", ErrRefused, hdr.Typeflag)
}

func (u *unpacker) file(name string, content io.Reader) error {
	f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := copyBounded(io.MultiWriter(meter{u.stage}, f), content, u.limits.UnpackedBytes-u.written)
	u.written += n
	return errors.Join(truncated(err), f.Close())
}

// whiteout translates the archive's marks of deletion into overlayfs' own.
func (u *unpacker) whiteout(dir, base string) error {
	if base == whiteoutOpaque {
		return u.at(dir, func(fd int) error {
			return unix.Fsetxattr(fd, "trusted.overlay.opaque", []byte("y"), 0)
		})
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil // bookkeeping of aufs
	}
	gone := strings.TrimPrefix(base, whiteoutPrefix)
	if gone == "" || gone == "." || gone == ".." {
		return fmt.Errorf("%w: whiteout of %q", ErrRefused, gone)
	}
	if _, err := u.root.Lstat(path.Join(dir, gone)); err == nil {
		return nil // the same layer put it back
	}
	return u.at(dir, func(fd int) error { return unix.Mknodat(fd, gone, unix.S_IFCHR, 0) })
}

// attributes sets owner, xattrs, mode and time, in the order in which each
// survives the next: chown drops set-user-id bits and capabilities.
func (u *unpacker) attributes(name string, hdr *tar.Header) error {
	if u.owner {
		if err := u.root.Lchown(name, hdr.Uid, hdr.Gid); err != nil {
			return err
		}
	}
	dir, base := path.Dir(name), path.Base(name)
	return u.at(dir, func(fd int) error {
		for k, v := range hdr.PAXRecords {
			attr, ok := strings.CutPrefix(k, "SCHILY.xattr.")
			if !ok || !(attr == "security.capability" || strings.HasPrefix(attr, "user.")) {
				continue // trusted.overlay.* in an image would forge the layer's structure
			}
			if err := unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", fd, base), attr, []byte(v), 0); err != nil && err != unix.ENOTSUP {
				return fmt.Errorf("set %s: %w", attr, err)
			}
		}
		if hdr.Typeflag != tar.TypeSymlink {
			if err := u.root.Chmod(name, hdr.FileInfo().Mode()); err != nil {
				return err
			}
		}
		ts := unix.NsecToTimespec(hdr.ModTime.UnixNano())
		return unix.UtimesNanoAt(fd, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

func (u *unpacker) at(dir string, do func(fd int) error) error {
	d, err := u.root.Open(dir)
	if err != nil {
		return escape(err)
	}
	return errors.Join(do(int(d.Fd())), d.Close())
}

// escape gives os.Root's refusal the name users can ask about.
func escape(err error) error {
	if err != nil && strings.Contains(err.Error(), "path escapes from parent") {
		return fmt.Errorf("%w: %v", ErrRefused, err)
	}
	return err
}
