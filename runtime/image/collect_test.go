package image

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// What the collector goes by: who is used, for how long not, and that all names go together.
func TestUnusedImages(t *testing.T) {
	s, ctx := open(t), context.Background()
	load := func(ref, body string) Image {
		t.Helper()
		images, err := s.Load(ctx, bytes.NewReader(ociArchive(t, ref, []string{runtime.GOARCH}, tarOf(t, file("f", body)))), "")
		if err != nil {
			t.Fatal(err)
		}
		return images[0]
	}
	old, young, used := load("old:1", "old"), load("young:1", "young"), load("used:1", "used")
	load("old:2", "old")
	hourAgo := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.blobPath(old.Digest), hourAgo, hourAgo); err != nil {
		t.Fatal(err)
	}
	if _, err := s.use(ctx, used, "container"); err != nil {
		t.Fatal(err)
	}
	list, err := s.ListUnused()
	if err != nil || len(list) != 2 || list[0].Digest != old.Digest || list[1].Digest != young.Digest || len(list[0].Refs) != 2 || time.Since(list[0].Since) < 59*time.Minute {
		t.Fatalf("%+v %v", list, err)
	}
	stamp := s.Stamp()
	if err := s.RemoveAll(ctx, list[0]); err != nil {
		t.Fatal(err)
	}
	if list, err = s.ListUnused(); err != nil || len(list) != 1 {
		t.Errorf("%+v %v", list, err)
	}
	if !s.Stamp().After(stamp) {
		t.Error("the store does not tell that it has changed")
	}
}

// Several images travel in one archive, which docker's tools read by manifest.json.
func TestExportSeveral(t *testing.T) {
	s, ctx := open(t), context.Background()
	shared := tarOf(t, file("shared", "layer"))
	for _, ref := range []string{"a:1", "b:1"} {
		if _, err := s.Load(ctx, bytes.NewReader(ociArchive(t, ref, []string{runtime.GOARCH}, shared, tarOf(t, file("own", ref)))), ""); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := s.Export(ctx, &out, "a:1", "b:1"); err != nil {
		t.Fatal(err)
	}
	for what, hide := range map[string]string{"OCI": "manifest.json", "docker": "index.json"} {
		archive := bytes.ReplaceAll(out.Bytes(), []byte(hide+"\x00"), []byte(strings.Repeat("x", len(hide))+"\x00"))
		fixChecksums(archive)
		images, err := open(t).Load(ctx, bytes.NewReader(archive), "")
		if err != nil {
			t.Fatalf("read as %s: %v", what, err)
		}
		var refs []string
		for _, img := range images {
			refs = append(refs, img.Ref)
		}
		if !slices.Equal(refs, []string{"docker.io/library/a:1", "docker.io/library/b:1"}) {
			t.Errorf("read as %s: %v", what, refs)
		}
	}
}

// fixChecksums corrects the headers of a tar whose names were changed.
func fixChecksums(archive []byte) {
	for at := 0; at+512 <= len(archive); at += 512 {
		h := archive[at : at+512]
		if string(h[257:262]) != "ustar" {
			continue
		}
		copy(h[148:156], "        ")
		sum := 0
		for _, b := range h {
			sum += int(b)
		}
		copy(h[148:156], []byte{byte('0' + sum>>15&7), byte('0' + sum>>12&7), byte('0' + sum>>9&7), byte('0' + sum>>6&7), byte('0' + sum>>3&7), byte('0' + sum&7), 0, ' '})
	}
}
