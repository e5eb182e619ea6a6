package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/image"
)

// Upstream's: images are collected when the disk is fuller than the high
// threshold, until it is at the low one, the longest unused first; those that came or
// were used in the last two minutes stay.
const (
	imageGCHigh     = 85
	imageGCLow      = 80
	imageGCMinAge   = 2 * time.Minute
	imageGCInterval = 5 * time.Minute
)

// imageCollector frees the disk of images that nothing needs.
type imageCollector struct {
	images interface {
		ListUnused() ([]image.Unused, error)
		RemoveAll(ctx context.Context, u image.Unused) error
	}
	disk      func() (capacity, available int64, err error)
	high, low int // per cent
	now       func() time.Time
	tell      func(reason, message string)
}

// collect looks once, and frees what must be freed. What cannot be freed is told.
func (g *imageCollector) collect(ctx context.Context) error {
	capacity, available, err := g.disk()
	if err != nil {
		return err
	}
	if capacity == 0 {
		g.tell("InvalidDiskCapacity", "invalid capacity 0 on image filesystem")
		return nil
	}
	if used := 100 - int(available*100/capacity); used < g.high {
		return nil
	}
	wanted := capacity*int64(100-g.low)/100 - available
	unused, err := g.images.ListUnused()
	if err != nil {
		return err
	}
	var freed int64
	for _, u := range unused {
		if freed >= wanted {
			break
		}
		if g.now().Sub(u.Since) < imageGCMinAge {
			continue
		}
		if err := g.images.RemoveAll(ctx, u); err != nil {
			return fmt.Errorf("remove image %s: %w", u.Digest, err)
		}
		// What it was, unpacked, is not known; the disk says.
		_, now, err := g.disk()
		if err != nil {
			return err
		}
		freed = now - available
	}
	if freed < wanted {
		g.tell("FreeDiskSpaceFailed", fmt.Sprintf("Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", wanted, max(freed, 0)))
	}
	return nil
}

// imageCollector is one of the disk that the node's images are on.
func (a *Agent) imageCollector(images *image.Store) *imageCollector {
	return &imageCollector{
		images: images, high: cmp.Or(a.cfg.ImageGCHigh, imageGCHigh), low: cmp.Or(a.cfg.ImageGCLow, imageGCLow), now: time.Now,
		disk: func() (int64, int64, error) {
			var st unix.Statfs_t
			err := unix.Statfs(a.cfg.DataDir, &st)
			return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, err
		},
		tell: func(reason, message string) {
			a.tellNode(corev1.EventTypeWarning, reason, message)
		},
	}
}

// collectImages looks every few minutes until ctx ends.
func (a *Agent) collectImages(ctx context.Context, images *image.Store) {
	g := a.imageCollector(images)
	tick := time.NewTicker(imageGCInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := g.collect(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("cannot collect images", "error", err)
			g.tell("ImageGCFailed", err.Error())
		}
	}
}

// maxNodeImages is how many images a Node's status tells of, the largest, as upstream has it.
const maxNodeImages = 50

// nodeImages are what the Node's status tells. It reads the store only when it has changed.
type nodeImages struct {
	images *image.Store
	stamp  time.Time
	list   []corev1.ContainerImage
}

func (n *nodeImages) current() []corev1.ContainerImage {
	stamp := n.images.Stamp()
	if stamp.Equal(n.stamp) {
		return n.list
	}
	all, err := n.images.List()
	if err != nil {
		return n.list
	}
	n.stamp, n.list = stamp, listImages(all)
	return n.list
}

// listImages tells of each image once, with all its names.
func listImages(all []image.Image) []corev1.ContainerImage {
	byDigest := map[string]*corev1.ContainerImage{}
	for _, img := range all {
		c := byDigest[img.Digest.String()]
		if c == nil {
			c = &corev1.ContainerImage{SizeBytes: img.Size}
			byDigest[img.Digest.String()] = c
		}
		for _, name := range []string{img.RepoDigest, img.Ref} {
			if name != "" && !slices.Contains(c.Names, name) {
				c.Names = append(c.Names, name)
			}
		}
	}
	list := make([]corev1.ContainerImage, 0, len(byDigest))
	for _, c := range byDigest {
		list = append(list, *c)
	}
	slices.SortFunc(list, func(a, b corev1.ContainerImage) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), slices.Compare(a.Names, b.Names))
	})
	return list[:min(len(list), maxNodeImages)]
}
