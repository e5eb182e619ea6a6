package scheduler

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func scoringDefaults() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(defaultMilliCPU, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(defaultMemory, resource.BinarySI),
	}
}

func nodeResourcesFit() filterPlugin {
	return filterPlugin{"NodeResourcesFit", podGone | nodeAllocatableChanged, func(c *cycle) func(*nodeInfo) []string {
		var wanted []corev1.ResourceName
		for name, amount := range c.requests {
			if amount > 0 {
				wanted = append(wanted, name)
			}
		}
		slices.Sort(wanted)
		return func(n *nodeInfo) []string {
			var reasons []string
			if int64(len(n.pods)+1) > n.allocatable[corev1.ResourcePods] {
				reasons = append(reasons, "Too many pods")
			}
			for _, name := range wanted {
				if c.requests[name] > n.allocatable[name]-n.requested[name] {
					reasons = append(reasons, "Insufficient "+string(name))
				}
			}
			return reasons
		}
	}}
}

// scoreLeastAllocated prefers nodes of which much cpu and memory is left.
func scoreLeastAllocated(c *cycle, nodes []*nodeInfo) []int64 {
	scores := make([]int64, len(nodes))
	for i, n := range nodes {
		sum, weights := int64(0), int64(0)
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			capacity := n.allocatable[name]
			if capacity == 0 {
				continue
			}
			weights++
			if left := capacity - n.scoring[name] - c.scoring[name]; left > 0 {
				sum += left * maxScore / capacity
			}
		}
		if weights > 0 {
			scores[i] = sum / weights
		}
	}
	return scores
}

// scoreBalanced prefers nodes whose cpu and memory are used in equal parts.
func scoreBalanced(c *cycle, nodes []*nodeInfo) []int64 {
	if c.requests[corev1.ResourceCPU] == 0 && c.requests[corev1.ResourceMemory] == 0 {
		return nil
	}
	scores := make([]int64, len(nodes))
	for i, n := range nodes {
		var fractions []float64
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if capacity := n.allocatable[name]; capacity > 0 {
				fractions = append(fractions, min(1, float64(n.requested[name]+c.requests[name])/float64(capacity)))
			}
		}
		deviation := 0.0
		if len(fractions) == 2 {
			deviation = math.Abs(fractions[0]-fractions[1]) / 2
		}
		scores[i] = int64((1 - deviation) * maxScore)
	}
	return scores
}
