package scheduler

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
)

// resources are amounts of what pods request: cpu in thousandths, all else in units.
// A value is never changed once it was made.
type resources struct {
	cpu, memory, storage int64
	other                map[corev1.ResourceName]int64 // nil for most pods and nodes
}

func amounts(list corev1.ResourceList) resources {
	var r resources
	for name, quantity := range list {
		switch name {
		case corev1.ResourceCPU:
			r.cpu = quantity.MilliValue()
		case corev1.ResourceMemory:
			r.memory = quantity.Value()
		case corev1.ResourceEphemeralStorage:
			r.storage = quantity.Value()
		case corev1.ResourcePods:
		default:
			if r.other == nil {
				r.other = map[corev1.ResourceName]int64{}
			}
			r.other[name] = quantity.Value()
		}
	}
	return r
}

func (r resources) plus(b resources, sign int64) resources {
	r.cpu += sign * b.cpu
	r.memory += sign * b.memory
	r.storage += sign * b.storage
	if len(b.other) > 0 {
		sum := maps.Clone(r.other)
		if sum == nil {
			sum = make(map[corev1.ResourceName]int64, len(b.other))
		}
		for name, amount := range b.other {
			sum[name] += sign * amount
		}
		r.other = sum
	}
	return r
}

func (r resources) equal(b resources) bool {
	return r.cpu == b.cpu && r.memory == b.memory && r.storage == b.storage && maps.Equal(r.other, b.other)
}

func (r resources) of(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.cpu
	case corev1.ResourceMemory:
		return r.memory
	case corev1.ResourceEphemeralStorage:
		return r.storage
	}
	return r.other[name]
}
