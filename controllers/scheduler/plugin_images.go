package scheduler

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Between these sizes a node that has the images of a container gets more, the
// larger they are; upstream's numbers.
const (
	smallImages = 23 << 20
	largeImages = 1000 << 20
)

// scoreImages is upstream's ImageLocality: nodes that have large images of the pod
// are preferred, the less so the fewer nodes have them, so that pods do not all go
// where the image happened to be first.
func scoreImages(c *cycle) *scorer {
	spec := &c.pod.Spec
	spread := map[string]float64{} // the share of nodes that have an image
	all := append(append([]corev1.Container(nil), spec.InitContainers...), spec.Containers...)
	for _, container := range all {
		name := imageName(container.Image)
		if _, counted := spread[name]; counted {
			continue
		}
		having := 0
		for _, n := range c.nodes {
			if _, ok := n.images[name]; ok {
				having++
			}
		}
		spread[name] = float64(having) / float64(len(c.nodes))
	}
	names := make([]string, 0, len(all))
	for _, container := range all {
		if name := imageName(container.Image); spread[name] > 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil // no node has any
	}
	large := int64(largeImages * len(all))
	return &scorer{one: func(n *nodeInfo) int64 {
		sum := int64(0)
		for _, name := range names {
			if size, ok := n.images[name]; ok {
				sum += int64(float64(size) * spread[name])
			}
		}
		sum = min(max(sum, smallImages), large)
		return maxScore * (sum - smallImages) / (large - smallImages)
	}}
}

// imageName completes a name without tag, as nodes report it.
func imageName(name string) string {
	if strings.LastIndexByte(name, ':') <= strings.LastIndexByte(name, '/') {
		return name + ":latest"
	}
	return name
}

func imagesOf(node *corev1.Node) map[string]int64 {
	if len(node.Status.Images) == 0 {
		return nil
	}
	images := make(map[string]int64, len(node.Status.Images))
	for _, image := range node.Status.Images {
		for _, name := range image.Names {
			images[imageName(name)] = image.SizeBytes
		}
	}
	return images
}
