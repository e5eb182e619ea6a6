package scheduler

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

func nodeResourcesFit() filterPlugin {
	return filterPlugin{
		name: "NodeResourcesFit", helps: podGone | nodeAllocatableChanged,
		hint: nodeHint(func(p *placed, n *corev1.Node) bool {
			return n.Status.Allocatable.Pods().Value() > 0 && tooLittle(p.requests, amounts(n.Status.Allocatable), resources{}) == nil
		}),
		prepare: func(c *cycle) *filter {
			return &filter{check: func(_ int, n *nodeInfo) *verdict {
				full := int64(len(n.pods)+1) > n.slots
				short := tooLittle(c.requests, n.allocatable, n.requested)
				if !full && short == nil {
					return nil
				}
				v := &verdict{}
				if full {
					v.reasons = append(v.reasons, "Too many pods")
				}
				for _, name := range short {
					v.reasons = append(v.reasons, "Insufficient "+string(name))
					v.final = v.final || c.requests.of(name) > n.allocatable.of(name)
				}
				return v
			}}
		},
	}
}

// tooLittle names the resources of which less is left than wanted.
func tooLittle(wanted, allocatable, used resources) (short []corev1.ResourceName) {
	if wanted.cpu > 0 && wanted.cpu > allocatable.cpu-used.cpu {
		short = append(short, corev1.ResourceCPU)
	}
	if wanted.memory > 0 && wanted.memory > allocatable.memory-used.memory {
		short = append(short, corev1.ResourceMemory)
	}
	if wanted.storage > 0 && wanted.storage > allocatable.storage-used.storage {
		short = append(short, corev1.ResourceEphemeralStorage)
	}
	if len(wanted.other) == 0 {
		return short
	}
	known := len(short)
	for name, amount := range wanted.other {
		if amount > 0 && amount > allocatable.other[name]-used.other[name] {
			short = append(short, name)
		}
	}
	slices.Sort(short[known:])
	return short
}

type weighedResource struct {
	name   corev1.ResourceName
	weight int64
}

// Upstream's scoring strategies of NodeResourcesFit.
const (
	leastAllocated           = "LeastAllocated"
	mostAllocated            = "MostAllocated"
	requestedToCapacityRatio = "RequestedToCapacityRatio"
)

// fitStrategy says which nodes NodeResourcesFit prefers.
type fitStrategy struct {
	kind      string
	resources []weighedResource
	shape     []shapePoint // of RequestedToCapacityRatio, by utilization
}

// shapePoint is the score, 0 to maxScore, at a utilization in percent.
type shapePoint struct{ utilization, score int64 }

func (s fitStrategy) score(c *cycle) *scorer {
	rate := s.rate()
	return &scorer{one: func(n *nodeInfo) int64 {
		sum, weights := int64(0), int64(0)
		for _, r := range s.resources {
			wanted, used := c.used(n, r.name)
			capacity := n.allocatable.of(r.name)
			if capacity == 0 || !basic(r.name) && wanted == 0 {
				continue
			}
			rated := rate(used+wanted, capacity)
			if s.kind == requestedToCapacityRatio && rated == 0 {
				continue // upstream leaves such a resource out of the mean
			}
			sum += rated * r.weight
			weights += r.weight
		}
		switch {
		case weights == 0:
			return 0
		case s.kind == requestedToCapacityRatio:
			return int64(math.Round(float64(sum) / float64(weights)))
		}
		return sum / weights
	}}
}

// used is what the pod wants of a resource and what is taken of it, for scoring: cpu
// and memory with something for containers that name no request.
func (c *cycle) used(n *nodeInfo, name corev1.ResourceName) (wanted, used int64) {
	if name == corev1.ResourceCPU || name == corev1.ResourceMemory {
		return c.scoring.of(name), n.scoring.of(name)
	}
	return c.requests.of(name), n.requested.of(name)
}

// basic resources are rated even for pods that do not ask for them.
func basic(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage
}

func (s fitStrategy) rate() func(used, capacity int64) int64 {
	switch s.kind {
	case mostAllocated:
		return func(used, capacity int64) int64 { return min(used, capacity) * maxScore / capacity }
	case requestedToCapacityRatio:
		return func(used, capacity int64) int64 {
			if used > capacity {
				return along(s.shape, 100)
			}
			return along(s.shape, used*100/capacity)
		}
	}
	return func(used, capacity int64) int64 { return max(capacity-used, 0) * maxScore / capacity }
}

// along is the score at a utilization, on straight lines between the points.
func along(shape []shapePoint, utilization int64) int64 {
	for i, p := range shape {
		if utilization > p.utilization {
			continue
		}
		if i == 0 {
			return p.score
		}
		before := shape[i-1]
		return before.score + (p.score-before.score)*(utilization-before.utilization)/(p.utilization-before.utilization)
	}
	return shape[len(shape)-1].score
}

// scoreBalanced prefers nodes on which the pod brings the parts of the resources
// that are used nearer to each other.
func scoreBalanced(of []weighedResource) func(*cycle) *scorer {
	return func(c *cycle) *scorer {
		asks := slices.ContainsFunc(of, func(r weighedResource) bool { return c.requests.of(r.name) > 0 })
		if !asks {
			return nil
		}
		with, without := make([]float64, 0, len(of)), make([]float64, 0, len(of))
		return &scorer{one: func(n *nodeInfo) int64 {
			with, without = with[:0], without[:0]
			for _, r := range of {
				wanted, capacity := c.requests.of(r.name), n.allocatable.of(r.name)
				if capacity == 0 || !basic(r.name) && wanted == 0 {
					continue
				}
				used := n.requested.of(r.name)
				with = append(with, min(1, float64(used+wanted)/float64(capacity)))
				without = append(without, min(1, float64(used)/float64(capacity)))
			}
			return maxScore/2 + (maxScore/2+balance(with)-balance(without))/2
		}}
	}
}

// balance is maxScore for equal fractions and less, the more they deviate.
func balance(fractions []float64) int64 {
	deviation := 0.0
	switch n := float64(len(fractions)); {
	case n == 2:
		deviation = math.Abs(fractions[0]-fractions[1]) / 2
	case n > 2:
		mean, sum := 0.0, 0.0
		for _, f := range fractions {
			mean += f / n
		}
		for _, f := range fractions {
			sum += (f - mean) * (f - mean)
		}
		deviation = math.Sqrt(sum / n)
	}
	return int64((1 - deviation) * maxScore)
}
