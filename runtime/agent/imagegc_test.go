package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kontiki/runtime/image"
)

// heap is a disk of 1000 bytes that holds images of 100.
type heap struct {
	now     time.Time
	used    int64
	unused  []image.Unused
	removed []string
}

func (h *heap) ListUnused() ([]image.Unused, error) { return slices.Clone(h.unused), nil }

func (h *heap) RemoveAll(_ context.Context, u image.Unused) error {
	h.removed = append(h.removed, u.Refs...)
	h.used -= u.Size
	h.unused = slices.DeleteFunc(h.unused, func(o image.Unused) bool { return o.Digest == u.Digest })
	return nil
}

func TestImageCollector(t *testing.T) {
	now := time.Unix(100_000, 0)
	old := func(minutes ...int) (list []image.Unused) { // oldest first, as the store lists them
		for _, m := range minutes {
			list = append(list, image.Unused{Digest: v1.Hash{Hex: fmt.Sprint(m)}, Refs: []string{fmt.Sprintf("%dm", m)}, Size: 100, Since: now.Add(-time.Duration(m) * time.Minute)})
		}
		return list
	}
	for _, tc := range []struct {
		name    string
		used    int64
		unused  []image.Unused
		removed []string
		told    string
	}{
		{"below the threshold nothing goes", 840, old(60, 50), nil, ""},
		{"above it the longest unused go, down to the low one", 950, old(60, 50, 40), []string{"60m", "50m"}, ""},
		{"what is young stays", 900, old(60, 1), []string{"60m"}, ""},
		{"what cannot be freed is told", 950, old(60, 1), []string{"60m"}, "FreeDiskSpaceFailed: Failed to garbage collect required amount of images. Attempted to free 150 bytes, but only found 100 bytes eligible to free."},
	} {
		h := &heap{now: now, used: tc.used, unused: tc.unused}
		told := ""
		g := &imageCollector{images: h, high: imageGCHigh, low: imageGCLow, now: func() time.Time { return now },
			disk: func() (int64, int64, error) { return 1000, 1000 - h.used, nil }, tell: func(reason, message string) { told = reason + ": " + message }}
		if err := g.collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(h.removed, tc.removed) || told != tc.told {
			t.Errorf("%s: removed %v, told %q", tc.name, h.removed, told)
		}
	}
}

func TestImagesOfTheNode(t *testing.T) {
	digest := func(s string) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: strings.Repeat(s, 64)} }
	got := listImages([]image.Image{
		{Ref: "docker.io/library/a:1", Digest: digest("a"), Size: 10},
		{Ref: "docker.io/library/a:2", Digest: digest("a"), Size: 10, RepoDigest: "docker.io/library/a@sha256:aa"},
		{Ref: "docker.io/library/b:1", Digest: digest("b"), Size: 20},
	})
	if len(got) != 2 || got[0].SizeBytes != 20 || !slices.Equal(got[1].Names, []string{"docker.io/library/a:1", "docker.io/library/a@sha256:aa", "docker.io/library/a:2"}) {
		t.Errorf("%+v", got)
	}
}
