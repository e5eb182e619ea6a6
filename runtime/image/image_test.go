package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tarOf(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range entries {
		body := h.Linkname
		if h.Typeflag == tar.TypeReg || h.Typeflag == 0 {
			h.Linkname, h.Size, h.Typeflag = "", int64(len(body)), tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		h.Uid, h.Gid, h.ModTime = os.Getuid(), os.Getgid(), time.Unix(1000, 0)
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(tw, body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// file is a regular file whose body travels in Linkname until tarOf writes it.
func file(name, body string) tar.Header { return tar.Header{Name: name, Linkname: body, Mode: 0o644} }

func hashOf(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

func gz(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// ociArchive makes an archive of one image for each architecture named.
func ociArchive(t *testing.T, ref string, archs []string, layers ...[]byte) []byte {
	t.Helper()
	blobs := map[string][]byte{}
	put := func(mt types.MediaType, b []byte) v1.Descriptor {
		h := hashOf(b)
		blobs["blobs/sha256/"+h.Hex] = b
		return v1.Descriptor{MediaType: mt, Digest: h, Size: int64(len(b))}
	}
	marshal := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var variants []v1.Descriptor
	for _, arch := range archs {
		cf := v1.ConfigFile{OS: "linux", Architecture: arch, Config: v1.Config{Entrypoint: []string{"/" + arch}}}
		m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
		for _, l := range layers {
			cf.RootFS.DiffIDs = append(cf.RootFS.DiffIDs, hashOf(l))
			m.Layers = append(m.Layers, put(types.OCILayer, gz(t, l)))
		}
		m.Config = put(types.OCIConfigJSON, marshal(cf))
		d := put(types.OCIManifestSchema1, marshal(m))
		d.Platform = &v1.Platform{OS: "linux", Architecture: arch}
		variants = append(variants, d)
	}
	top := variants[0]
	if len(variants) > 1 {
		top = put(types.OCIImageIndex, marshal(v1.IndexManifest{SchemaVersion: 2, Manifests: variants}))
	}
	top.Platform, top.Annotations = nil, map[string]string{annotationRef: ref}
	entries := []tar.Header{file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", string(marshal(v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{top}})))}
	for name, b := range blobs {
		entries = append(entries, file(name, string(b)))
	}
	return tarOf(t, entries...)
}

func TestNormalize(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	for in, want := range map[string]string{
		"web":                         "docker.io/library/web:latest",
		"web:1":                       "docker.io/library/web:1",
		"me/web":                      "docker.io/me/web:latest",
		"docker.io/web":               "docker.io/library/web:latest",
		"localhost:5000/web":          "localhost:5000/web:latest",
		"registry.k8s.io/pause:3.10":  "registry.k8s.io/pause:3.10",
		"web@" + digest:               "docker.io/library/web@" + digest,
		"Web":                         "",
		" web":                        "",
		"":                            "",
		"web:":                        "",
		"https://registry.example/we": "",
	} {
		got, err := Normalize(in)
		if want == "" && !errors.Is(err, ErrInvalidName) || want != "" && err != nil || got != want {
			t.Errorf("Normalize(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestLoadPicksThisMachine(t *testing.T) {
	s, ctx := open(t), context.Background()
	other := "s390x"
	a := ociArchive(t, "web:1", []string{other, s.platform.Architecture}, tarOf(t, file("hello", "world")))
	images, err := s.Load(ctx, bytes.NewReader(gz(t, a)), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(images) != 1 || images[0].Ref != "docker.io/library/web:1" || images[0].Config.Config.Entrypoint[0] != "/"+s.platform.Architecture {
		t.Fatalf("loaded %+v", images)
	}
	if _, err := s.Load(ctx, bytes.NewReader(ociArchive(t, "web:2", []string{other}, tarOf(t))), ""); !errors.Is(err, ErrNoPlatform) {
		t.Fatalf("foreign image: %v", err)
	}
	for _, name := range []string{"web:1", "docker.io/library/web:1", images[0].ID, "web@" + images[0].Digest.String()} {
		if got, err := s.Resolve(name); err != nil || got.Digest != images[0].Digest {
			t.Errorf("Resolve(%q) = %v, %v", name, got.Ref, err)
		}
	}
	if _, err := s.Resolve("web"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown tag: %v", err)
	}
}

func TestLoadDockerArchive(t *testing.T) {
	s, ctx := open(t), context.Background()
	layer := tarOf(t, file("etc/motd", "hi"))
	cf, _ := json.Marshal(v1.ConfigFile{OS: "linux", Architecture: s.platform.Architecture, RootFS: v1.RootFS{DiffIDs: []v1.Hash{hashOf(layer), hashOf(layer)}}})
	a := tarOf(t, file("c.json", string(cf)), file("a/layer.tar", string(layer)),
		tar.Header{Name: "b/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../a/layer.tar"},
		file("manifest.json", `[{"Config":"c.json","RepoTags":["app:v1","app:v2"],"Layers":["a/layer.tar","b/layer.tar"]}]`))
	images, err := s.Load(ctx, bytes.NewReader(a), "")
	if err != nil || len(images) != 2 {
		t.Fatalf("%v %v", images, err)
	}
	if err := s.Unpack(ctx, images[0]); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(s.path("layers", hashOf(layer).Hex, "etc/motd")); err != nil || string(b) != "hi" {
		t.Fatalf("%q %v", b, err)
	}
}

func TestBrokenArchivesLeaveNothing(t *testing.T) {
	good := ociArchive(t, "x", []string{hostPlatform().Architecture}, tarOf(t, file("f", "body")))
	lie := "blobs/sha256/" + strings.Repeat("0", 64)
	for name, b := range map[string][]byte{
		"truncated":    good[:len(good)/2],
		"wrong digest": tarOf(t, file(lie, "not what it says")),
		"odd digest":   tarOf(t, file("blobs/sha256/../../../../etc/passwd", "x"), file("blobs/sha256/zz", "x")),
		"empty":        tarOf(t),
		"no tar":       []byte("hello, this is no archive at all"),
		"no layer":     tarOf(t, file("manifest.json", `[{"Config":"c","RepoTags":["x"],"Layers":["l"]}]`), file("c", "{}")),
		"bad json":     tarOf(t, file("index.json", `{"manifests":[{]}`)),
		"missing blob": tarOf(t, file("index.json", `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:`+strings.Repeat("0", 64)+`","size":3}]}`)),
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			if _, err := s.Load(context.Background(), bytes.NewReader(b), "x"); err == nil {
				t.Fatal("loaded")
			}
			for _, d := range []string{"tmp", "blobs/sha256"} {
				if left, _ := os.ReadDir(s.path(d)); len(left) != 0 {
					t.Errorf("%s holds %v", d, left)
				}
			}
		})
	}
}

func TestHostileLayers(t *testing.T) {
	outside := t.TempDir()
	for name, tc := range map[string]struct {
		entries []tar.Header
		want    error
	}{
		"dot dot":           {[]tar.Header{file("../evil", "x")}, ErrRefused},
		"dot dot inside":    {[]tar.Header{file("a/../../evil", "x")}, ErrRefused},
		"absolute symlink":  {[]tar.Header{{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside}, file("out/evil", "x")}, ErrRefused},
		"relative symlink":  {[]tar.Header{{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "../../../../.." + outside}, file("out/evil", "x")}, ErrRefused},
		"hard link out":     {[]tar.Header{{Name: "out", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}}, ErrRefused},
		"hard link through": {[]tar.Header{{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "out", Typeflag: tar.TypeLink, Linkname: "d/passwd"}}, ErrRefused},
		"whiteout through":  {[]tar.Header{{Name: "d", Typeflag: tar.TypeSymlink, Linkname: outside}, file("d/.wh.evil", "")}, ErrRefused},
		"whiteout of dots":  {[]tar.Header{file("a/.wh...", "")}, ErrRefused},
		"device":            {[]tar.Header{{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}}, ErrRefused},
		"root is a file":    {[]tar.Header{file(".", "x")}, ErrRefused},
		"bomb":              {[]tar.Header{file("a", strings.Repeat("x", 900)), file("b", strings.Repeat("x", 900))}, ErrTooLarge},
		"too many":          {[]tar.Header{file("1", ""), file("2", ""), file("3", ""), file("4", ""), file("5", "")}, ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			s.limits.UnpackedBytes, s.limits.Entries = 1000, 4
			images, err := s.Load(context.Background(), bytes.NewReader(ociArchive(t, "x", []string{s.platform.Architecture}, tarOf(t, tc.entries...))), "")
			if err != nil {
				t.Fatal(err)
			}
			err = s.Unpack(context.Background(), images[0])
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("unpacked: %v, want %v", err, tc.want)
			}
			for _, d := range []string{outside, s.path("tmp")} {
				if left, _ := os.ReadDir(d); len(left) != 0 {
					t.Errorf("%s holds %v", d, left)
				}
			}
			if left, _ := os.ReadDir(s.path("layers")); err != nil && len(left) != 0 {
				t.Errorf("a half layer was left: %v", left)
			}
		})
	}
}

func TestImportExportRemove(t *testing.T) {
	s, ctx := open(t), context.Background()
	dir := t.TempDir()
	for p, body := range map[string]string{"bin/web": "program", "etc/a": "1"} {
		p = filepath.Join(dir, p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(body), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(dir, "bin/web"), os.ModeSetuid|0o755), os.Link(filepath.Join(dir, "etc/a"), filepath.Join(dir, "etc/b")), os.Symlink("/bin/web", filepath.Join(dir, "run"))); err != nil {
		t.Fatal(err)
	}
	img, err := s.Import(ctx, dir, "web", v1.Config{Entrypoint: []string{"/bin/web"}})
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Import(ctx, dir, "web", v1.Config{Entrypoint: []string{"/bin/web"}})
	if err != nil || again.Digest != img.Digest {
		t.Fatalf("the same folder gave %s and %s (%v)", img.Digest, again.Digest, err)
	}
	var out bytes.Buffer
	if err := s.Export(ctx, &out, "web"); err != nil {
		t.Fatal(err)
	}
	s2 := open(t)
	images, err := s2.Load(ctx, &out, "")
	if err != nil || images[0].Digest != img.Digest {
		t.Fatalf("%v %v", images, err)
	}
	if err := s2.Unpack(ctx, images[0]); err != nil {
		t.Fatal(err)
	}
	tree := s2.path("layers", images[0].Config.RootFS.DiffIDs[0].Hex)
	a, _ := os.Stat(filepath.Join(tree, "etc/a"))
	b, _ := os.Stat(filepath.Join(tree, "etc/b"))
	web, _ := os.Stat(filepath.Join(tree, "bin/web"))
	if to, err := os.Readlink(filepath.Join(tree, "run")); err != nil || to != "/bin/web" || !os.SameFile(a, b) || web.Mode() != os.ModeSetuid|0o755 {
		t.Errorf("link %q %v, same file %v, mode %v", to, err, os.SameFile(a, b), web.Mode())
	}
	if err := s2.Remove(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"layers", "blobs/sha256", "tmp"} {
		if left, _ := os.ReadDir(s2.path(d)); len(left) != 0 {
			t.Errorf("%s holds %v", d, left)
		}
	}
	if err := s2.Remove(ctx, "web"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestMountLayersAndWhiteouts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	s, ctx := open(t), context.Background()
	layers := [][]byte{
		tarOf(t, file("a", "1"), file("b", "1"), file("d/x", "1"), file("d/y", "1")),
		tarOf(t, file(".wh.a", ""), file("d/.wh..wh..opq", ""), file("d/z", "2")),
	}
	for i := range 70 { // more than fit into one page of options by name
		layers = append(layers, tarOf(t, file("n", strings.Repeat("x", i))))
	}
	images, err := s.Load(ctx, bytes.NewReader(ociArchive(t, "x", []string{s.platform.Architecture}, layers...)), "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "rootfs"), unix.MNT_DETACH) })
	for range 2 {
		if _, err := s.Mount(ctx, images[0], "c1", dir); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	_ = filepath.WalkDir(filepath.Join(dir, "rootfs"), func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, strings.TrimPrefix(p, filepath.Join(dir, "rootfs")))
		}
		return nil
	})
	if got := strings.Join(names, " "); got != "/b /d/z /n" {
		t.Errorf("the overlay shows %s", got)
	}
	if err := s.Remove(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "rootfs/b")); err != nil || string(b) != "1" {
		t.Errorf("removing the image took the container's files: %q %v", b, err)
	}
	for range 2 {
		if err := s.Unmount("c1", dir); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestStaleStagesAreSwept(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	live, err := s.newStage()
	if err != nil {
		t.Fatal(err)
	}
	defer live.close()
	if err := os.Mkdir(s.path("tmp", "stage-dead"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, nil); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(s.path("tmp"))
	if len(left) != 1 || left[0].Name() != filepath.Base(live.dir) {
		t.Errorf("tmp holds %v", left)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := open(t)
		s.limits = Limits{BlobBytes: 1 << 20, MetadataBytes: 1 << 16, UnpackedBytes: 1 << 20, Entries: 100}
		images, err := s.Load(context.Background(), bytes.NewReader(b), "x")
		if err == nil {
			for _, img := range images {
				_ = s.Unpack(context.Background(), img)
			}
		}
	})
}
